"""buildah: a Containerfile of many steps, and working containers, with the runtime under test
behind RUN.
"""

import contextlib
from pathlib import Path

import image
from drill import Drills, expect, phrases
from podman import configure
from session import split_command

drills = Drills()

CONTAINERFILE = f"""FROM {image.NAME} AS base
ARG GREETING=hello
ENV FROM_ENV=kept
RUN /bin/sh -c 'echo "$GREETING $FROM_ENV" >/steps; /usr/bin/id >>/steps'
RUN ["/bin/sh", "-c", "echo exec form >>/steps"]
COPY given /copied
RUN /bin/cat /copied >>/steps
WORKDIR /work/dir
RUN /bin/pwd >>/steps
USER user
RUN /usr/bin/id >/tmp/user && /bin/pwd >>/tmp/user
USER root
RUN --mount=type=bind,source=given,target=/mnt/given \\
    /bin/cat /mnt/given >>/steps && ! /bin/touch /mnt/given
RUN --mount=type=tmpfs,target=/mnt /bin/stat -f -c %T /mnt >>/steps
RUN --mount=type=cache,target=/cache echo cached >/cache/x && cat /cache/x >>/steps
RUN --mount=type=secret,id=drill /bin/cat /run/secrets/drill >>/steps
RUN /sbin/ip -o link | /usr/bin/wc -l >>/steps
RUN /bin/show credentials >>/steps

FROM {image.NAME}
COPY --from=base /steps /tmp/user /
RUN /bin/mkdir /final && /bin/chown user /final
CMD ["/bin/cat", "/steps"]
"""


CONTAINERS = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
"""


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, session):
        self.s = session
        self.at = session.scratch / "buildah"
        self.context = self.at / "context"
        self.context.mkdir(parents=True)
        configure(self.at, CONTAINERS)
        (self.context / "given").write_text("given content\n")
        self.secret = self.at / "secret"
        self.secret.write_text("a secret\n")

    def stop(self):
        """Remove the working containers; there is no daemon."""
        self.clear()

    def clear(self):
        """Remove all working containers."""
        self.buildah("rm", "--all")

    def buildah(self, *argv, **more):
        """Run a buildah command."""
        return self.s.run("buildah", *argv, **more)

    def build(self, text, *flags):
        """Build a Containerfile; the image is `built`."""
        (self.context / "Containerfile").write_text(text)
        flags = [*self.oci(), "--cgroup-parent", f"/{self.s.tag}", "--network", "none", *flags]
        flags += ["--ulimit", "nofile=1000:1000", "--tag", "localhost/built:drill"]
        return self.buildah("build", *flags, self.context, timeout=200)

    def oci(self):
        """The flags that choose the runtime."""
        return ["--runtime", self.s.path, "--isolation", "oci"]

    @contextlib.contextmanager
    def working(self, name=image.NAME):
        """A working container of an image, removed at the end."""
        container = self.buildah("from", "--pull-never", name).ok().out.strip()
        try:
            yield container
        finally:
            self.buildah("rm", container)

    def read(self, name, path):
        """A file of an image."""
        with self.working(name) as container:
            mounted = self.buildah("mount", container).ok().out.strip()
            return (Path(mounted) / path).read_text()

    def run(self, container, *argv, **more):
        """`buildah run` in a working container: flags, then the command behind "--"."""
        flags, command = split_command(argv)
        return self.buildah("run", *self.oci(), *flags, container, "--", *command, **more)


def start(session):
    """buildah with the image in its storage."""
    engine = Buildah(session)
    engine.buildah("pull", f"docker-archive:{session.work}/busybox.tar", timeout=120).ok()
    return engine


@drills("build of many steps: RUN, users, mounts, secrets, stages")
def build(e):
    built = e.build(CONTAINERFILE, "--secret", f"id=drill,src={e.secret}", "--layers")
    expect(built.code == 0, built.seen())
    steps, user = e.read("localhost/built:drill", "steps"), e.read("localhost/built:drill", "user")
    expect(
        "hello kept" in steps
        and "exec form" in steps
        and "a secret" in steps
        and "uid=1000" in user,
        steps,
        user,
    )
    again = e.build(CONTAINERFILE, "--secret", f"id=drill,src={e.secret}", "--layers")
    expect(again.code == 0 and "Using cache" in again.out + again.err, again.seen())
    return [steps, user]


@drills("build: a RUN that fails, by status and by a missing program")
def build_fails(e):
    seen = []
    for line in ["RUN exit 9", 'RUN ["/nowhere"]', 'RUN ["/bin/not-executable"]']:
        built = e.build(f"FROM {image.NAME}\n{line}\n")
        expect(built.code != 0, line, "succeeded")
        seen.append([built.code, phrases(built.err)])
    return seen


@drills("build: capabilities, build arguments, a named user, squash")
def build_options(e):
    commands = "/bin/show credentials >/tmp/c; /usr/bin/id >>/tmp/c"
    text = f"FROM {image.NAME}\nARG WHO\nUSER $WHO\nRUN {commands}\n"
    flags = ["--build-arg", "WHO=1000:2000", "--cap-drop", "CHOWN", "--cap-add", "SYS_ADMIN"]
    built = e.build(text, *flags, "--squash")
    expect(built.code == 0, built.seen())
    return e.read("localhost/built:drill", "tmp/c")


@drills("build: volumes of the host, a read-only one, resolver and hosts")
def build_volumes(e):
    volume = e.at / "volume"
    volume.mkdir(exist_ok=True)
    (volume / "file").write_text("content\n")
    commands = (
        "cat /v/file >/seen; touch /v/x; echo $? >>/seen; grep -c drill-host /etc/hosts >>/seen; "
        "/bin/show mounts | grep -v /dev >>/seen"
    )
    text = f"FROM {image.NAME}\nRUN {commands}\n"
    built = e.build(text, "--volume", f"{volume}:/v:ro", "--add-host", "drill-host:192.0.2.1")
    expect(built.code == 0, built.seen())
    return e.read("localhost/built:drill", "seen")


@drills("run in a working container: output, status, stdin, user, workingdir")
def run(e):
    other = ["--user", "user", "--workingdir", "/tmp", "--", "/bin/sh", "-c", "id; pwd"]
    with e.working() as container:
        seen = [
            e.run(container, "--", "/bin/sh", "-c", "echo o; echo e >&2; exit 7").seen(),
            e.run(container, *other).seen(),
            e.run(container, "--", "/usr/bin/md5sum", stdin="text\n" * 1000).seen(),
        ]
        wrong = e.run(container, "--", "/nowhere")
    seen.append([wrong.code, phrases(wrong.err)])
    expect(seen[0]["code"] == 7 and seen[0]["out"] == "o\n", seen)
    return seen


@drills("run: a terminal")
def terminal(e):
    script = [(r"[#$] ", "test -t 0 && tty\n"), (r"dev/pts/\d|console", "exit 5\n")]
    with e.working() as container:
        argv = ["buildah", "run", *e.oci(), "--tty", container, "--", "/bin/sh"]
        status, _ = e.s.terminal(*argv, script=script)
    return status


for aspect in image.ASPECTS:

    @drills(f"seen in the container: {aspect}")
    def seen_in_container(e, aspect=aspect):
        with e.working() as container:
            ran = e.run(container, "--hostname", "drill", "--", "/bin/show", aspect).ok().out
        return [line for line in ran.splitlines() if aspect != "cgroup" or "buildah-" not in line]


@drills("the runtime of README's lines is the one that runs")
def configured(e):
    command = ["/bin/sh", "-c", "echo ran; exit 3"]
    with e.working() as container:
        argv = ["run", "--isolation", "oci", container, "--", *command]
        ran = e.buildah(*argv)
        installed = Path(e.s.path)
        installed.rename("/usr/bin/away")
        try:
            without = e.buildah(*argv)
        finally:
            Path("/usr/bin/away").rename(installed)
    expect(ran.code == 3 and ran.out == "ran\n", ran.seen())
    expect(without.code != 0 and "hull" in without.err and "ran" not in without.out, without.seen())
    return ran.seen()


@drills("a runtime flag is passed on")
def runtime_flag(e):
    with e.working() as container:
        ran = e.run(container, "--runtime-flag", "log-format=json", "--", "/bin/true")
    return ran.code


@drills("nothing is left at the end")
def nothing_left(e):
    expect(not e.buildah("containers", "--quiet").ok().out, "containers left")
    e.s.state_roots_empty("/run/runc", "/run/crun", "/run/hull")
    # buildah names no cgroup of ours: those of another sandbox are seen too, and pass
    seen = e.s.cgroups("buildah-buildah")
    e.s.until(f"the end of {seen[:3]}", lambda: not [c for c in seen if Path(c).exists()])
    return None
