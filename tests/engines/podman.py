"""Podman, with root. Its drills also serve rootless Podman, see podman_rootless.py."""

import os
import re
import socket
from pathlib import Path

import checkpoints
import image
from drill import Drills, expect, phrases
from session import (
    RESIZING,
    alive,
    answers,
    descriptor_three,
    exec_cases,
    load,
    notify_socket,
    packaged,
    split_command,
    until_ready,
)

drills = Drills()
PAUSE = "localhost/pause:drill"

CONTAINERS = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
init_path = "/usr/bin/tini-static"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
infra_image = "{pause}"
infra_command = "/bin/pause"
image_default_transport = "docker://"
[network]
network_backend = "netavark"
"""
STORAGE = """[storage]
driver = "overlay"
graphroot = "{at}/storage"
runroot = "{at}/runroot"
rootless_storage_path = "{at}/storage"
"""


def configure(at, containers):
    """Write the configuration that Podman and buildah share: `containers` is that of containers,
    and storage lies in the directory `at`. README's lines choose the runtime.
    """
    etc = Path("/etc/containers")
    (etc / "containers.conf").write_text(containers)
    (etc / "containers.conf.d").mkdir(exist_ok=True)
    (etc / "containers.conf.d/hull.conf").write_text(packaged("containers.conf"))
    (etc / "storage.conf").write_text(STORAGE.format(at=at))
    (etc / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')


class Podman:
    """Podman, its configuration, and the containers made by it."""

    rootless = False

    def __init__(self, session):
        self.s = session
        self.at = session.scratch / "podman"
        self.at.mkdir(exist_ok=True)
        configure(self.at, CONTAINERS.format(pause=PAUSE))
        Path("/etc/subuid").write_text("containers:200000:1000000\ndriller:100000:65536\n")
        Path("/etc/subgid").write_text("containers:200000:1000000\ndriller:100000:65536\n")
        self.kube = []
        self.parent = ["--cgroup-parent", f"/{session.tag}"]

    def stop(self):
        """Remove the containers; there is no daemon."""
        self.clear()

    def clear(self):
        """Remove all containers and pods."""
        self.podman("pod", "rm", "--all", "--force", "--time", "0")
        self.podman("rm", "--all", "--force", "--time", "0")

    def command(self, *argv):
        """The argument list of a podman command."""
        return ["podman", *map(str, argv)]

    def podman(self, *argv, **more):
        """Run a podman command."""
        return self.s.run(*self.command(*argv), **more)

    def run(self, *argv, **more):
        """`podman run --rm` in the foreground: flags, then the command behind "--"."""
        flags, command = split_command(argv)
        return self.podman("run", "--rm", *self.parent, *flags, image.NAME, *command, **more)

    def launch(self, name, *argv, **more):
        """A container in the background: flags, then the command behind "--"; returns the id of its
        process.
        """
        flags, command = split_command(argv)
        flags = ["--detach", "--name", name, *self.parent, *flags]
        self.podman("run", *flags, image.NAME, *command, **more).ok()
        return self.inspect(name)["State"]["Pid"]

    def inspect(self, name):
        """What `podman inspect` says of a container."""
        return load(self.podman("container", "inspect", name).ok().out)[0]

    def remove(self, *names):
        """Remove containers by force."""
        self.podman("rm", "--force", "--time", "0", *names).ok()

    def cgroup(self, name, controller, file):
        """A file of a container's cgroup, found by its process."""
        lines = Path(f"/proc/{self.inspect(name)['State']['Pid']}/cgroup").read_text().splitlines()
        path = next(
            line.split(":", 2)[2] for line in lines if controller in line.split(":")[1].split(",")
        )
        return Path(f"/sys/fs/cgroup/{controller}{path}/{file}").read_text().strip()


def start(session):
    """Podman with both images in its storage."""
    engine = Podman(session)
    prepare(engine)
    return engine


def prepare(engine):
    """Load both images."""
    pause = engine.s.scratch / "pause.tar"
    image.pause_archive(pause, PAUSE)
    os.chmod(engine.s.work, 0o755)
    for archive in [engine.s.work / "busybox.tar", pause]:
        engine.podman("load", "--quiet", "--input", archive, timeout=120).ok()


@drills("info: the runtime of README's lines, its path and version")
def info(e):
    found = load(e.podman("info", "--format", "json").ok().out)["host"]["ociRuntime"]
    expect(
        found["name"] == "hull" and found["path"] == e.s.path and " version " in found["version"],
        found,
    )
    return None


@drills("run: output, exit status, 128+n")
def run_status(e):
    seen = [
        e.run("--", "/bin/sh", "-c", "echo o; echo e >&2; exit 7").seen(),
        e.run("--", "/bin/true").code,
        e.run("--init", "--", "/bin/sh", "-c", "kill -TERM $$").code,
        e.run("--init", "--", "/bin/sh", "-c", "kill -KILL $$").code,
    ]
    expect(seen == [{"code": 7, "out": "o\n", "err": "e\n"}, 0, 143, 137], seen)
    return seen


WRONG = {
    "missing program, by path": (["/nowhere"], 127),
    "missing program, by name": (["nowhere"], 127),
    "no execute permission": (["/bin/not-executable"], 126),
    "directory": (["/tmp"], 126),
    "no format": (["/bin/no-format"], None),
}
for what, (args, status) in WRONG.items():

    @drills(f"run: {what}" + (f": {status}" if status else ""))
    def run_wrong(e, args=args, status=status):
        ran = e.run("--", *args)
        expect(status is None or ran.code == status, ran.seen())
        return [ran.code, phrases(ran.err)]


@drills("run: wrong mounts, users and working directories")
def run_refused(e):
    seen = []
    for flags in [
        ["--volume", "/nowhere:/x"],
        ["--volume", "/run:/etc/passwd"],
        ["--workdir", "/etc/passwd"],
        ["--user", "nobody-here"],
        ["--workdir", "/not/there"],
    ]:
        ran = e.run(*flags, "--", "/bin/true")
        seen.append([ran.code, phrases(ran.err)])
    return seen


for aspect in image.ASPECTS:

    @drills(f"seen in the container: {aspect}")
    def seen_in_container(e, aspect=aspect):
        return e.run("--hostname", "drill", "--name", "seen", "--", "/bin/show", aspect).ok().out


@drills("seen in the container: descriptors")
def seen_descriptors(e):
    listing = e.run("--", "/bin/ls", "-l", "/proc/self/fd").ok().out
    return sorted(line.split()[-3:] for line in listing.splitlines() if "->" in line)


@drills("run: --read-only --tmpfs -v, a volume, tmpcopyup")
def run_mounts(e):
    volume = e.at / "volume"
    volume.mkdir(exist_ok=True, mode=0o777)
    os.chmod(volume, 0o777)
    (volume / "file").write_text("content\n")
    script = (
        "touch /x; touch /ro/y; touch /rw/z && echo written; cat /file; "
        "touch /t/x && echo fresh; ls /etc/copied | wc -l; /bin/show mounts; ls /home"
    )
    ran = e.run(
        "--read-only",
        "--tmpfs",
        "/t:size=1m,noexec",
        "--tmpfs",
        "/home:tmpcopyup",
        "-v",
        f"{volume}:/ro:ro",
        "-v",
        f"{volume}:/rw",
        "-v",
        f"{volume}/file:/file:ro",
        "-v",
        "/vol",
        "--",
        "/bin/sh",
        "-c",
        script,
    ).ok()
    expect(
        (volume / "z").exists() and not (volume / "y").exists() and ran.out.endswith("user\n"),
        ran.seen(),
    )
    return [ran.out.replace(str(volume), ""), ran.err]


@drills("run: --cap-drop --cap-add --security-opt --user --group-add --umask")
def run_security(e):
    profile = e.s.seccomp_profile()
    cases = [
        ["--cap-drop", "ALL"],
        ["--cap-drop", "CHOWN", "--cap-add", "NET_ADMIN"],
        ["--security-opt", "no-new-privileges"],
        ["--security-opt", "seccomp=unconfined"],
        ["--user", "1000:2000", "--group-add", "3000"],
        ["--umask", "0077"],
        ["--security-opt", "mask=/etc/group", "--security-opt", "unmask=/proc/kcore"],
    ]
    seen = [e.run(*case, "--", "/bin/show", "credentials").ok().out for case in cases]
    blocked = e.run("--security-opt", f"seccomp={profile}", "--", "/bin/mkdir", "/tmp/x")
    expect(blocked.code == 1 and "Umask:\t0077" in seen[5], blocked.seen(), seen[5])
    return [*seen, blocked.code, blocked.err]


@drills("run: --ulimit")
def run_ulimit(e):
    return (
        e.run(
            "--ulimit",
            "nofile=1000:2000",
            "--ulimit",
            "core=0:0",
            "--ulimit",
            "nproc=30000:32000",
            "--",
            "/bin/show",
            "limits",
        )
        .ok()
        .out
    )


@drills("run: --memory --pids-limit --cpus --cpuset-cpus")
def run_limits(e):
    e.launch(
        "limits",
        "--memory",
        "64m",
        "--memory-swap",
        "128m",
        "--pids-limit",
        "17",
        "--cpus",
        "0.5",
        "--cpuset-cpus",
        "0",
        "--",
        "/bin/sleep",
        "1000",
    )
    seen = {}
    for controller, file in [
        ("memory", "memory.limit_in_bytes"),
        ("pids", "pids.max"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpuset", "cpuset.cpus"),
    ]:
        seen[file] = e.cgroup("limits", controller, file)
    e.remove("limits")
    expect(list(seen.values()) == ["67108864", "17", "50000", "0"], seen)
    return seen


@drills("run: out of memory")
def run_oom(e):
    e.podman(
        "run",
        "--name",
        "oom",
        *e.parent,
        "--memory",
        "16m",
        image.NAME,
        "/usr/bin/tail",
        "-c",
        "200m",
        "/dev/zero",
    )
    state = e.inspect("oom")["State"]
    e.remove("oom")
    expect(state["ExitCode"] == 137, state)
    return state["ExitCode"]


@drills("run: --device")
def run_device(e):
    script = "/bin/stat -c '%F %t,%T' /dev/drill; : </dev/drill && echo opened"
    ran = e.run("--device", "/dev/fuse:/dev/drill:rw", "--", "/bin/sh", "-c", script)
    return [ran.code, ran.out, phrases(ran.err)]


@drills("run: --privileged")
def run_privileged(e):
    ran = e.run("--privileged", "--", "/bin/sh", "-c", "/bin/show masked; ls /dev | wc -l")
    return [ran.code, ran.out, phrases(ran.err)]


@drills("run: --cgroups=disabled", compared=False)
def run_no_cgroups(e):
    # Podman asks it of crun and of who is in runtime_supports_nocgroup; runc has no such option
    ran = e.podman("run", "--rm", "--cgroups=disabled", image.NAME, "/bin/sh", "-c", "echo ran")
    if e.s.runtime != "runc":
        expect(ran.ok().out == "ran\n", ran.seen())
    return [ran.code, ran.out, phrases(ran.err)]


@drills("run: --network none, host, container, --pid and --ipc modes")
def run_namespaces(e):
    e.launch("other", "--ipc", "shareable", "--", "/bin/sleep", "1000")
    seen = {}
    for flags in [
        ["--pid", "host"],
        ["--uts", "host"],
        ["--network", "host"],
        ["--network", "none"],
        ["--network", "container:other"],
        ["--pid", "container:other"],
        ["--ipc", "container:other"],
        ["--ipc", "host"],
        ["--cgroupns", "private"],
    ]:
        ran = e.run(*flags, "--", "/bin/sh", "-c", image.LINKS_AND_INIT)
        seen[" ".join(flags)] = [ran.code, ran.out, phrases(ran.err)]
    e.remove("other")
    return seen


@drills("run: --userns auto")
def userns_auto(e):
    ran = e.run(
        "--userns",
        "auto:size=4096",
        "--",
        "/bin/sh",
        "-c",
        "/bin/cat /proc/self/uid_map; /usr/bin/id; touch /tmp/x && echo written",
    )
    expect(ran.code == 0 and "4096" in ran.out, ran.seen())
    return [ran.code, re.sub(r" +", " ", ran.out)]


@drills("run: --uidmap, --gidmap")
def uidmap(e):
    ran = e.run(
        "--uidmap",
        "0:1:1000",
        "--gidmap",
        "0:1:1000",
        "--",
        "/bin/sh",
        "-c",
        "/bin/cat /proc/self/uid_map; /bin/stat -c %u /bin; /bin/show credentials",
    )
    return [ran.code, re.sub(r" +", " ", ran.out), phrases(ran.err)]


@drills("run: --preserve-fds, and exec's")
def preserve_fds(e):
    source = e.at / "preserved"
    source.write_text("through three\n")
    read = ["/bin/sh", "-c", "/bin/cat <&3"]
    with descriptor_three(source):
        first = e.run("--preserve-fds", "1", "--", *read, pass_fds=(3,))
        os.lseek(3, 0, os.SEEK_SET)
        e.launch("kept", "--", "/bin/sleep", "1000")
        second = e.podman("exec", "--preserve-fds", "1", "kept", *read, pass_fds=(3,))
    e.remove("kept")
    expect(first.out == second.out == "through three\n", first.seen(), second.seen())
    return None


@drills("run: --sdnotify conmon, ignore")
def sdnotify(e):
    path = e.at / "notify.sock"
    with notify_socket(path) as ours:
        environment = {"NOTIFY_SOCKET": str(path)}
        e.launch("notify", "--sdnotify=conmon", "--", "/bin/sleep", "1000", env=environment)
        got = until_ready(ours)
    e.remove("notify")
    expect("MAINPID=" in got and "READY=1" in got, got)
    return sorted({line.split("=")[0] for line in got.split()})


@drills("run: --sdnotify container: the socket reaches the container")
def sdnotify_container(e):
    path = e.at / "notify.sock"
    flags = ["--rm", *e.parent, "--sdnotify=container", "--name", "notify"]
    script = "echo $NOTIFY_SOCKET >/tmp/where; exec /bin/sleep 1000"
    argv = e.command("run", *flags, image.NAME, "/bin/sh", "-c", script)

    def where():
        return e.podman("exec", "notify", "/bin/cat", "/tmp/where").out.strip()

    with (
        notify_socket(path) as ours,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs,
    ):
        runner = e.s.start(*argv, log="sdnotify.log", env={"NOTIFY_SOCKET": str(path)})
        at = e.s.until("the container", where)
        pid = e.inspect("notify")["State"]["Pid"]
        theirs.connect(f"/proc/{pid}/root{at}")  # as the container's own process would
        theirs.send(b"READY=1\n")
        got = until_ready(ours)
        expect("READY=1" in got, got)
        e.remove("notify")
        runner.wait(30)
    return bool(at)


@drills("systemd units: generated, and their commands run")
def generate_systemd(e):
    e.podman("create", "--name", "unit", *e.parent, image.NAME, "/bin/sleep", "1000").ok()
    unit = e.podman("generate", "systemd", "--new", "--name", "unit").ok().out
    e.remove("unit")
    commands = dict(re.findall(r"^(ExecStart|ExecStop|ExecStopPost)=((?:.*\\\n)*.*)$", unit, re.M))
    e.s.note(unit)
    cid = e.at / "unit.cid"
    cid.unlink(missing_ok=True)

    def words(name):
        return (
            commands[name]
            .replace("\\\n", " ")
            .replace("%t/%n.ctr-id", str(cid))
            .replace("%t/%N.ctr-id", str(cid))
            .split()
        )

    path = e.at / "notify.sock"
    with notify_socket(path) as ours:
        e.podman(*words("ExecStart")[1:], env={"NOTIFY_SOCKET": str(path)}).ok()
        got = until_ready(ours)
    pid = e.inspect("unit")["State"]["Pid"]
    expect(alive(pid) and "MAINPID=" in got and "READY=1" in got, got)
    stopped = e.podman("stop", "--time", "0", "--ignore", "--cidfile", cid).code
    e.podman(*words("ExecStopPost")[1:])
    expect(not alive(pid), "it lives on")
    return stopped


@drills("exec: status, 126, 127, user, cwd, environment, stopped and paused containers")
def exec_status(e):
    e.launch("xx", "--", "/bin/sleep", "1000")
    cases = [*exec_cases("xx"), ["--privileged", "xx", "/bin/show", "credentials"]]
    ran = [e.podman("exec", *case) for case in cases]
    e.podman("kill", "xx").ok()
    e.podman("wait", "xx")
    stopped = e.podman("exec", "xx", "/bin/true")
    e.remove("xx")
    expect(
        [r.code for r in ran[:4]] == [5, 127, 127, 126] and ran[6].code == 137,
        [r.seen() for r in ran],
    )
    return [[r.code, r.out, phrases(r.err)] for r in [*ran, stopped]]


@drills("exec: detached; stdin to its end")
def exec_detached(e):
    e.launch("xd", "--", "/bin/sleep", "1000")
    e.podman("exec", "--detach", "xd", "/bin/sh", "-c", "echo done >/tmp/done").ok()
    e.s.until("the file", lambda: e.podman("exec", "xd", "/bin/cat", "/tmp/done").out == "done\n")
    text = "".join(f"line {i}\n" for i in range(20000))
    out = e.podman("exec", "-i", "xd", "/usr/bin/md5sum", stdin=text).ok().out
    e.remove("xd")
    return out


@drills("exec -it and run -it: a terminal, its size, its resizing")
def terminals(e):
    e.launch("xt", "--", "/bin/sleep", "1000")
    inner = e.s.terminal(*e.command("exec", "-it", "xt", "/bin/sh"), script=RESIZING)
    e.remove("xt")
    outer = e.s.terminal(
        *e.command("run", "--rm", "-it", *e.parent, image.NAME, "/bin/sh"), script=RESIZING
    )
    expect(inner[0] == outer[0] == 9, inner, outer)
    return None


@drills("logs, top, wait, restart, kill, stop, attach")
def life(e):
    pid = e.launch("life", "--", "/bin/sh", "-c", "echo said; echo err >&2; exec /bin/sleep 1000")
    logs = e.s.until(
        "logs", lambda: (lambda r: r if r.out and r.err else None)(e.podman("logs", "life"))
    ).seen()
    top = e.podman("top", "life", "pid", "comm", "user").ok().out.split()
    e.podman("restart", "--time", "0", "life").ok()
    expect(not alive(pid) and e.inspect("life")["State"]["Running"], "not restarted")
    e.podman("kill", "--signal", "KILL", "life").ok()
    waited = e.podman("wait", "life").ok().out
    again = e.podman("kill", "life")
    e.remove("life")
    e.launch("trap", "--", "/bin/trap")
    e.s.until("readiness", lambda: "ready" in e.podman("logs", "trap").out)
    e.podman("stop", "--time", "20", "trap").ok()
    code = e.inspect("trap")["State"]["ExitCode"]
    e.remove("trap")
    expect(top[3:] == ["1", "sleep", "root"] and code == 42, top, code)
    return [logs, waited, again.code, phrases(again.err), code]


@drills("pause and unpause; exec in a paused container")
def pause(e):
    e.launch("pp", "--", "/bin/sleep", "1000")
    e.podman("pause", "pp").ok()
    seen = [e.inspect("pp")["State"]["Status"]]
    refused = e.podman("exec", "pp", "/bin/true")
    e.podman("unpause", "pp").ok()
    seen += [refused.code, phrases(refused.err), e.inspect("pp")["State"]["Status"]]
    e.remove("pp")
    expect(seen[0] == "paused" and seen[3] == "running", seen)
    return seen


@drills("update")
def update(e):
    e.launch("up", "--memory", "64m", "--cpus", "0.5", "--", "/bin/sleep", "1000")
    changed = e.podman(
        "update", "--memory", "96m", "--memory-swap", "192m", "--cpu-quota", "30000", "up"
    )
    seen = [changed.code] + [
        e.cgroup("up", c, f)
        for c, f in [("memory", "memory.limit_in_bytes"), ("cpu", "cpu.cfs_quota_us")]
    ]
    e.remove("up")
    expect(seen[0] == 0 and seen[1] == str(96 << 20), changed.seen(), seen)
    return seen


@drills("stats")
def stats(e):
    e.launch("st", "--", "/bin/sh", "-c", "x=$(/usr/bin/seq 1 20000); exec /bin/sleep 1000")
    shown = load(e.podman("stats", "--no-stream", "--format", "json", "st").ok().out)[0]
    e.remove("st")
    expect(shown["pids"] == "1" and not shown["mem_usage"].startswith("0B"), shown)
    return shown["pids"]


@drills("health check")
def health(e):
    e.launch(
        "well",
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "disable",
        "--health-retries",
        "1",
        "--",
        "/bin/sleep",
        "1000",
    )
    first = e.podman("healthcheck", "run", "well")
    e.podman("exec", "well", "/bin/touch", "/tmp/well").ok()
    second = e.podman("healthcheck", "run", "well")
    e.remove("well")
    expect(first.code == 1 and second.code == 0, first.seen(), second.seen())
    return [first.code, second.code]


@drills("network: an address, a published port")
def network(e):
    e.launch(
        "web",
        "--publish",
        "127.0.0.1:18082:8080",
        "--",
        "/usr/sbin/httpd",
        "-f",
        "-p",
        "8080",
        "-h",
        "/etc",
    )
    e.s.until("an answer", lambda: answers(("127.0.0.1", 18082)))
    e.remove("web")
    return None


@drills("pods: shared namespaces, infra container, pause, stop, remove")
def pods(e):
    e.podman(
        "pod",
        "create",
        "--name",
        "pod",
        *e.parent,
        "--share",
        "net,ipc,uts,pid",
        "--hostname",
        "podhost",
    ).ok()
    names = ["one", "two"]
    for name in names:
        e.podman(
            "run", "--detach", "--pod", "pod", "--name", name, image.NAME, "/bin/sleep", "1000"
        ).ok()
    seen = [
        e.podman("exec", "one", "/bin/hostname").ok().out,
        e.podman("exec", "two", "/bin/cat", "/proc/1/cmdline").ok().out,
    ]
    links = [e.podman("exec", n, "/bin/readlink", "/proc/self/ns/net").ok().out for n in names]
    e.podman("pod", "stop", "--time", "0", "pod").ok()

    def ended(n):
        # whichever Podman's clean-up has reached
        return e.inspect(n)["State"]["Status"] in ("stopped", "exited")

    expect(all(ended(n) for n in names), "not stopped")
    e.podman("pod", "start", "pod").ok()
    seen.append([e.inspect(n)["State"]["Status"] for n in names])
    e.podman("pod", "rm", "--force", "--time", "0", "pod").ok()
    expect(links[0] == links[1] and seen[0] == "podhost\n" and "pause" in seen[1], links, seen)
    return seen


KUBE = f"""apiVersion: v1
kind: Pod
metadata:
  name: kube
spec:
  containers:
  - name: main
    image: {image.NAME}
    command: ["/bin/sh", "-c", "echo $GREETING; exec /bin/sleep 1000"]
    env: [{{name: GREETING, value: hello}}]
    securityContext:
      runAsUser: 1000
      readOnlyRootFilesystem: true
      capabilities: {{drop: [ALL]}}
  - name: side
    image: {image.NAME}
    command: ["/bin/sleep", "1000"]
  restartPolicy: Never
"""


@drills("play kube, and down again")
def play_kube(e):
    file = e.at / "kube.yaml"
    file.write_text(KUBE)
    os.chmod(file, 0o644)
    played = e.podman("play", "kube", *e.kube, file)
    expect(played.code == 0, played.seen())
    logs = e.s.until("the greeting", lambda: e.podman("logs", "kube-main").out)
    seen = [
        logs,
        e.podman("exec", "kube-main", "/bin/show", "credentials").ok().out,
        e.podman("exec", "kube-main", "/bin/touch", "/x").code,
    ]
    down = e.podman("play", "kube", "--down", file)
    expect(down.code == 0 and not e.podman("ps", "--all", "--quiet").ok().out, down.seen())
    return seen


@drills("commit, cp, diff of a container")
def files(e):
    e.launch("fs", "--", "/bin/sh", "-c", "echo made >/made; exec /bin/sleep 1000")
    e.s.until("the file", lambda: e.podman("exec", "fs", "/usr/bin/test", "-e", "/made").code == 0)
    (e.at / "in").write_text("copied\n")
    e.podman("cp", e.at / "in", "fs:/tmp/in").ok()
    seen = [
        e.podman("exec", "fs", "/bin/cat", "/tmp/in").ok().out,
        sorted(e.podman("diff", "fs").ok().out.split("\n")),
    ]
    e.podman("commit", "--quiet", "fs", "localhost/committed:drill").ok()
    seen.append(
        e.podman("run", "--rm", *e.parent, "localhost/committed:drill", "/bin/cat", "/made")
        .ok()
        .out
    )
    e.remove("fs")
    e.podman("rmi", "localhost/committed:drill").ok()
    return seen


def counted(e, name):
    """The number that a container of COUNTING has reached."""
    return int(e.podman("exec", name, "/bin/cat", "/tmp/count").out.strip() or 0)


def goes_on(e, name, least):
    """A restored container counts on from `least` or more."""
    at = counted(e, name)
    expect(at >= least, "it began anew:", at, least)
    e.s.until("it to count on", lambda: counted(e, name) > at + 3)


@drills(
    "checkpoint and restore: in place, leaving it running, the images kept by --keep; "
    "its output still reaches the log"
)
def checkpoint(e):
    checkpoints.criu_works(e.s)
    pid = e.launch("cp", "--", *checkpoints.SPEAKING)
    e.s.until("some numbers", lambda: counted(e, "cp") > 3)
    e.podman("container", "checkpoint", "--leave-running", "cp").ok()
    expect(alive(pid), "it ended")
    goes_on(e, "cp", 4)
    e.podman("container", "checkpoint", "--keep", "cp").ok()
    stopped = e.inspect("cp")
    static = Path(stopped["StaticDir"])
    images = Path(stopped["State"].get("CheckpointPath") or static / "checkpoint")
    dumped = (
        stopped["State"]["Status"],
        not alive(pid),
        (images / "inventory.img").exists(),
        (static / "dump.log").exists(),
    )
    e.podman("container", "restore", "--keep", "cp").ok()
    goes_on(e, "cp", 4)
    restored = e.inspect("cp")["State"]
    kept = (
        (images / "inventory.img").exists(),
        (static / "restore.log").exists(),
    )
    numbers = [int(line) for line in e.podman("logs", "cp").out.split()]
    e.podman("stop", "--time", "0", "cp").ok()
    code = e.inspect("cp")["State"]["ExitCode"]
    e.remove("cp")
    expect(dumped == ("exited", True, True, True) and kept == (True, True), dumped, kept)
    expect(restored["Restored"] and numbers == list(range(1, len(numbers) + 1)), restored, numbers)
    return [dumped, kept, code]


@drills(
    "checkpoint --export, restore --import: the same container, and a second one under a new name"
)
def exported(e):
    checkpoints.criu_works(e.s)
    e.launch("cp", "--", *checkpoints.COUNTING)
    e.s.until("some numbers", lambda: counted(e, "cp") > 5)
    e.podman("exec", "cp", "/bin/sh", "-c", "echo kept >/written").ok()
    saved = e.at / "cp.tar.gz"
    e.podman("container", "checkpoint", "--export", saved, "cp").ok()
    e.remove("cp")
    seen = []
    for name, flags in [("cp", []), ("copy", ["--name", "copy"])]:
        e.podman("container", "restore", "--import", saved, *flags).ok()
        goes_on(e, name, 6)
        seen.append(
            [e.podman("exec", name, "/bin/cat", "/written").out, e.inspect(name)["State"]["Status"]]
        )
    both = e.inspect("cp")["Id"] != e.inspect("copy")["Id"]
    e.remove("cp", "copy")
    saved.unlink()
    expect(both and seen == [["kept\n", "running"]] * 2, both, seen)
    return seen


@drills(
    "checkpoint and restore with --tcp-established: a client's connection goes on, its bytes are "
    "whole; refused without"
)
def established(e):
    checkpoints.criu_works(e.s)
    pid = e.launch("cp", "--ip", "10.88.0.77", "--", *checkpoints.ECHO)
    client = checkpoints.Client(e.s, "10.88.0.77")
    try:
        client.send(b"before\n" * 1000)
        client.back()
        refused = e.podman("container", "checkpoint", "cp")
        expect(refused.code != 0 and alive(pid), refused.seen())
        client.send(b"after a refusal\n" * 1000)
        client.back()
        saved = e.at / "cp.tar.gz"
        e.podman("container", "checkpoint", "--tcp-established", "--export", saved, "cp").ok()
        expect(not alive(pid), "it lives on")
        # The client is silent meanwhile: Podman sets the network up before it calls the runtime,
        # and what comes then is reset by the kernel.
        e.remove("cp")
        e.podman("container", "restore", "--tcp-established", "--import", saved).ok()
        client.send(b"after\n" * 100000)
        client.back()
    finally:
        client.close()
    e.s.until("its end", lambda: e.inspect("cp")["State"]["Status"] == "exited")
    code = e.inspect("cp")["State"]["ExitCode"]
    e.remove("cp")
    saved.unlink()
    return [refused.code, code]


@drills("nothing is left at the end")
def nothing_left(e):
    expect(not e.podman("ps", "--all", "--quiet").ok().out, "containers left")
    e.s.state_roots_empty("/run/runc", "/run/crun", "/run/hull")
    e.s.gone("conmon", "/usr/bin/conmon")
    # conmon's own cgroup and the pods' are Podman's to remove
    e.s.no_cgroups_left(keep=lambda at: not Path(at).name.startswith("libpod-") or "conmon" in at)
    return None
