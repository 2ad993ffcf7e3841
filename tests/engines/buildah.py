"""buildah: a Containerfile of many steps, and working containers, with the runtime under test
behind RUN.
"""

from pathlib import Path

import image
from drill import Drills, expect, phrases
from podman import STORAGE
from session import packaged

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
RUN --mount=type=bind,source=given,target=/mnt/given /bin/cat /mnt/given >>/steps && ! /bin/touch /mnt/given
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


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, session):
        self.s = session
        self.at = session.scratch / "buildah"
        self.context = self.at / "context"
        self.context.mkdir(parents=True)
        Path("/etc/containers/storage.conf").write_text(STORAGE.format(at=self.at))
        Path("/etc/containers/policy.json").write_text(
            '{"default": [{"type": "insecureAcceptAnything"}]}'
        )
        limits = 'default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]'
        Path("/etc/containers/containers.conf").write_text(
            f'[containers]\n{limits}\n[engine]\ncgroup_manager = "cgroupfs"\n'
        )
        Path("/etc/containers/containers.conf.d").mkdir(exist_ok=True)
        Path("/etc/containers/containers.conf.d/hull.conf").write_text(packaged("containers.conf"))
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
        return self.buildah(
            "build",
            "--runtime",
            self.s.path,
            "--isolation",
            "oci",
            "--cgroup-parent",
            f"/{self.s.tag}",
            "--network",
            "none",
            "--ulimit",
            "nofile=1000:1000",
            "--tag",
            "localhost/built:drill",
            *flags,
            self.context,
            timeout=200,
        )

    def read(self, name, path):
        """A file of an image."""
        container = self.buildah("from", "--pull-never", name).ok().out.strip()
        mounted = self.buildah("mount", container).ok().out.strip()
        text = (Path(mounted) / path).read_text()
        self.buildah("rm", container).ok()
        return text

    def run(self, container, *argv, **more):
        """`buildah run` in a working container: flags, then the command behind "--"."""
        at = argv.index("--")
        return self.buildah(
            "run",
            "--runtime",
            self.s.path,
            "--isolation",
            "oci",
            *argv[:at],
            container,
            "--",
            *argv[at + 1 :],
            **more,
        )


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
    text = f"FROM {image.NAME}\nARG WHO\nUSER $WHO\nRUN /bin/show credentials >/tmp/c; /usr/bin/id >>/tmp/c\n"
    built = e.build(
        text,
        "--build-arg",
        "WHO=1000:2000",
        "--cap-drop",
        "CHOWN",
        "--cap-add",
        "SYS_ADMIN",
        "--squash",
    )
    expect(built.code == 0, built.seen())
    return e.read("localhost/built:drill", "tmp/c")


@drills("build: volumes of the host, a read-only one, resolver and hosts")
def build_volumes(e):
    outside = e.at / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "file").write_text("content\n")
    text = f"FROM {image.NAME}\nRUN cat /v/file >/seen; touch /v/x; echo $? >>/seen; grep -c drill-host /etc/hosts >>/seen; /bin/show mounts | grep -v /dev >>/seen\n"
    built = e.build(text, "--volume", f"{outside}:/v:ro", "--add-host", "drill-host:192.0.2.1")
    expect(built.code == 0, built.seen())
    return e.read("localhost/built:drill", "seen")


@drills("run in a working container: output, status, stdin, user, workingdir")
def run(e):
    container = e.buildah("from", "--pull-never", image.NAME).ok().out.strip()
    seen = [
        e.run(container, "--", "/bin/sh", "-c", "echo o; echo e >&2; exit 7").seen(),
        e.run(
            container, "--user", "user", "--workingdir", "/tmp", "--", "/bin/sh", "-c", "id; pwd"
        ).seen(),
        e.run(container, "--", "/usr/bin/md5sum", stdin="text\n" * 1000).seen(),
    ]
    wrong = e.run(container, "--", "/nowhere")
    seen.append([wrong.code, phrases(wrong.err)])
    e.buildah("rm", container).ok()
    expect(seen[0]["code"] == 7 and seen[0]["out"] == "o\n", seen)
    return seen


@drills("run: a terminal")
def terminal(e):
    container = e.buildah("from", "--pull-never", image.NAME).ok().out.strip()
    argv = [
        "buildah",
        "run",
        "--runtime",
        e.s.path,
        "--isolation",
        "oci",
        "--tty",
        container,
        "--",
        "/bin/sh",
    ]
    status, _ = e.s.terminal(
        *argv, script=[(r"[#$] ", "test -t 0 && tty\n"), (r"dev/pts/\d|console", "exit 5\n")]
    )
    e.buildah("rm", container).ok()
    return status


for aspect in image.ASPECTS:

    @drills(f"seen inside: {aspect}")
    def seen_inside(e, aspect=aspect):
        container = e.buildah("from", "--pull-never", image.NAME).ok().out.strip()
        ran = e.run(container, "--hostname", "drill", "--", "/bin/show", aspect).ok().out
        e.buildah("rm", container).ok()
        return [line for line in ran.splitlines() if aspect != "cgroup" or "buildah-" not in line]


@drills("the runtime of README's lines is the one that runs")
def configured(e):
    container = e.buildah("from", "--pull-never", image.NAME).ok().out.strip()

    def run():
        return e.buildah(
            "run", "--isolation", "oci", container, "--", "/bin/sh", "-c", "echo ran; exit 3"
        )

    ran = run()
    installed = Path(e.s.path)
    installed.rename("/usr/bin/away")
    try:
        without = run()
    finally:
        Path("/usr/bin/away").rename(installed)
    e.buildah("rm", container).ok()
    expect(ran.code == 3 and ran.out == "ran\n", ran.seen())
    expect(without.code != 0 and "hull" in without.err and "ran" not in without.out, without.seen())
    return ran.seen()


@drills("a runtime flag is passed on")
def runtime_flag(e):
    container = e.buildah("from", "--pull-never", image.NAME).ok().out.strip()
    ran = e.run(container, "--runtime-flag", "log-format=json", "--", "/bin/true")
    e.buildah("rm", container).ok()
    return ran.code


@drills("nothing is left at the end")
def nothing_left(e):
    expect(not e.buildah("containers", "--quiet").ok().out, "containers left")
    e.s.state_roots_empty("/run/runc", "/run/crun", "/run/hull")
    # buildah names no cgroup of ours: those of another sandbox are seen too, and pass
    seen = e.s.cgroups("buildah-buildah")
    e.s.until(f"the end of {seen[:3]}", lambda: not [c for c in seen if Path(c).exists()])
    return None
