"""Docker: dockerd with the runtime under test as its default runtime by README's lines, and
Debian's client.
"""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints
import image
from drill import Drills, expect, phrases
from session import RESIZING, alive, answers, exec_cases, living, load, packaged, split_command

drills = Drills()
CLIENT = "/usr/bin/docker"  # Debian's; another one may come first in PATH


class Docker:
    """A dockerd of our own, with a containerd of its own, and the containers made in it."""

    def __init__(self, session):
        self.s = session
        self.host = f"unix://{session.scratch}/docker.sock"
        self.daemon = None
        configuration = {
            **json.loads(packaged("daemon.json")),
            "init-path": "/usr/bin/tini-static",
            "experimental": True,
            "data-root": f"{session.scratch}/docker",
            "exec-root": f"{session.scratch}/docker-exec",
            "hosts": [self.host],
            "pidfile": f"{session.scratch}/docker.pid",
            "cgroup-parent": f"/{session.tag}",
            "storage-driver": "overlay2",
            "live-restore": True,
            "debug": True,
            "iptables": True,
            "ip6tables": False,
            "userland-proxy": True,
            "shutdown-timeout": 1,
        }
        (session.scratch / "daemon.json").write_text(json.dumps(configuration))

    def up(self):
        """Start the daemon and wait until it answers."""
        self.daemon = self.s.start(
            "dockerd", "--config-file", self.s.scratch / "daemon.json", log="dockerd.log"
        )
        self.s.until(
            "dockerd",
            lambda: self.docker("version").code == 0 or self.daemon.poll() is not None,
            timeout=60,
        )
        expect(self.daemon.poll() is None, "dockerd ended, see dockerd.log")

    def stop(self):
        """Stop the daemon."""
        self.daemon.terminate()
        self.daemon.wait(60)

    def clear(self):
        """Remove all containers."""
        if self.daemon.poll() is not None:
            self.up()
        for container in self.docker("ps", "--all", "--quiet").out.split():
            self.docker("unpause", container)
            self.docker("rm", "--force", "--volumes", container)

    def docker(self, *argv, **more):
        """Run a docker command."""
        return self.s.run(CLIENT, "--host", self.host, *argv, **more)

    def run(self, *argv, **more):
        """`docker run --rm`, in the foreground: flags, then the command behind "--"."""
        flags, command = split_command(argv)
        return self.docker("run", "--rm", *flags, image.NAME, *command, **more)

    def launch(self, name, *argv, **more):
        """A container in the background: flags, then the command behind "--"; returns the id of its
        process.
        """
        flags, command = split_command(argv)
        self.docker("run", "--detach", "--name", name, *flags, image.NAME, *command, **more).ok()
        return self.inspect(name)["State"]["Pid"]

    def inspect(self, name):
        """What `docker inspect` says."""
        return load(self.docker("inspect", name).ok().out)[0]

    def cgroup(self, name, controller, file):
        """A file of a container's cgroup."""
        cgroup = Path("/sys/fs/cgroup", controller, self.s.tag, self.inspect(name)["Id"])
        return (cgroup / file).read_text().strip()

    def remove(self, *names):
        """Remove containers by force."""
        self.docker("rm", "--force", "--volumes", *names).ok()


def start(session):
    """A running dockerd with the image in it."""
    engine = Docker(session)
    engine.up()
    engine.docker("load", "--input", session.work / "busybox.tar").ok()
    return engine


@drills("the daemon knows the runtime by README's lines")
def version(e):
    info = load(e.docker("info", "--format", "{{json .}}").ok().out)
    expect(
        info["DefaultRuntime"] == "hull" and info["Runtimes"]["hull"]["path"] == e.s.path,
        info["Runtimes"],
    )
    server = load(e.docker("version", "--format", "{{json .Server}}").ok().out)
    return info["CgroupDriver"], server["Version"]


@drills("run: output, exit status, 128+n, nothing left")
def run_status(e):
    seen = [
        e.run("--", "/bin/sh", "-c", "echo o; echo e >&2; exit 7").seen(),
        e.run("--", "/bin/true").code,
    ]
    seen.append(e.run("--init", "--", "/bin/sh", "-c", "kill -TERM $$").code)
    seen.append(e.run("--init", "--", "/bin/sh", "-c", "kill -KILL $$").code)
    expect(seen == [{"code": 7, "out": "o\n", "err": "e\n"}, 0, 143, 137], seen)
    return seen


WRONG = {
    "missing program, by path": (["/nowhere"], 127),
    "missing program, by name": (["nowhere"], 127),
    "no execute permission": (["/bin/not-executable"], 126),
    "directory": (["/tmp"], 126),
    "no format": (["/bin/no-format"], None),
    "no interpreter": (["/bin/no-interpreter"], None),
}
for what, (args, status) in WRONG.items():

    @drills(f"run: {what}" + (f": {status}" if status else ""))
    def run_wrong(e, args=args, status=status):
        ran = e.run("--", *args)
        expect(status is None or ran.code == status, ran.seen())
        kept = e.docker("run", "--name", "kept", image.NAME, *args)
        state = e.inspect("kept")["State"]
        e.remove("kept")
        return [ran.code, kept.code, state["ExitCode"], state["Status"], phrases(ran.err)]


@drills("run: refusals of the daemon: 125")
def run_refused(e):
    seen = [
        e.run("--memory", "1k", "--", "/bin/true").code,
        e.run("--runtime", "nowhere", "--", "/bin/true").code,
        e.run("--volume", "relative:/x:wrong", "--", "/bin/true").code,
    ]
    mounted = e.run("--volume", "/run:/etc/passwd", "--", "/bin/true")
    seen += [mounted.code, phrases(mounted.err)]
    seen.append(e.run("--workdir", "/etc/passwd", "--", "/bin/true").code)
    seen.append(e.run("--user", "nobody-here", "--", "/bin/true").code)
    e.clear()  # --rm does not remove what could not start
    expect(seen[:3] == [125, 125, 125], seen)
    return seen


for aspect in image.ASPECTS:

    @drills(f"seen in the container: {aspect}")
    def seen_in_container(e, aspect=aspect):
        return e.run("--hostname", "drill", "--", "/bin/show", aspect).ok().out


@drills("seen in the container: descriptors")
def seen_descriptors(e):
    listing = e.run("--", "/bin/ls", "-l", "/proc/self/fd").ok().out
    return sorted(line.split()[-3:] for line in listing.splitlines() if "->" in line)


@drills("run: --read-only --tmpfs -v")
def run_mounts(e):
    volume = e.s.scratch / "volume"
    volume.mkdir(exist_ok=True)
    (volume / "file").write_text("content\n")
    script = (
        "touch /x; touch /ro/y; touch /rw/z && echo written; cat /file; "
        "touch /t/x && echo fresh; touch /vol/x && echo volume; /bin/show mounts"
    )
    ran = e.run(
        "--read-only",
        "--tmpfs",
        "/t:size=1m,noexec",
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
    expect((volume / "z").exists() and not (volume / "y").exists(), ran.seen())
    return [ran.out, ran.err]


@drills("run: --cap-drop --cap-add --security-opt")
def run_security(e):
    profile = e.s.seccomp_profile()
    cases = [
        ["--cap-drop", "ALL"],
        ["--cap-drop", "CHOWN", "--cap-add", "NET_ADMIN"],
        ["--security-opt", "no-new-privileges"],
        ["--security-opt", "seccomp=unconfined"],
        ["--user", "1000:2000", "--group-add", "3000"],
    ]
    seen = [e.run(*case, "--", "/bin/show", "credentials").ok().out for case in cases]
    blocked = e.run("--security-opt", f"seccomp={profile}", "--", "/bin/mkdir", "/tmp/x")
    expect(blocked.code == 1, blocked.seen())
    seen.append([blocked.code, blocked.err])
    seen.append(e.run("--", "/usr/bin/unshare", "-m", "/bin/true").seen())
    return seen


@drills("run: --ulimit --memory --pids-limit --cpus")
def run_limits(e):
    e.launch(
        "limits",
        "--ulimit",
        "nofile=1000:2000",
        "--ulimit",
        "core=0",
        "--memory",
        "64m",
        "--memory-swap",
        "128m",
        "--pids-limit",
        "17",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "300",
        "--cpuset-cpus",
        "0",
        "--",
        "/bin/sleep",
        "1000",
    )
    seen = [e.docker("exec", "limits", "/bin/show", "limits").ok().out]
    for controller, file in [
        ("memory", "memory.limit_in_bytes"),
        ("pids", "pids.max"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.shares"),
        ("cpuset", "cpuset.cpus"),
    ]:
        seen.append([file, e.cgroup("limits", controller, file)])
    full = e.docker(
        "exec", "limits", "/bin/sh", "-c", "for i in $(seq 40); do /bin/sleep 50 & done; echo all"
    )
    e.remove("limits")
    expect(full.code != 0 or "all" not in full.out or "fork" in full.err, full.seen())
    expect([s[1] for s in seen[1:]] == ["67108864", "17", "50000", "300", "0"], seen[1:])
    return seen


@drills("run: out of memory")
def run_oom(e):
    # dockerd may see the end before the shim's event tells why
    for _ in range(5):
        e.docker(
            "run",
            "--name",
            "oom",
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
        if state["OOMKilled"]:
            return None
    raise AssertionError("never told to be out of memory")


@drills("run: --device, and devices that are not allowed")
def run_device(e):
    script = (
        "/bin/stat -c '%F %t,%T' /dev/drill; : </dev/drill && echo opened; "
        "/bin/mknod /tmp/f c 1 11 && : </tmp/f && echo allowed"
    )
    ran = e.run("--device", "/dev/fuse:/dev/drill:rw", "--", "/bin/sh", "-c", script)
    expect("opened" in ran.out and "allowed" not in ran.out, ran.seen())
    return [ran.code, ran.out, phrases(ran.err)]


@drills("run: --init reaps and forwards")
def run_init(e):
    e.launch("init", "--init", "--", "/bin/trap")
    e.s.until("readiness", lambda: "ready" in e.docker("logs", "init").out)
    first = e.docker("exec", "init", "/bin/cat", "/proc/1/comm").ok().out
    e.docker("stop", "--time", "20", "init").ok()
    code = e.inspect("init")["State"]["ExitCode"]
    e.remove("init")
    expect(code == 42, code)
    return [first, code]


@drills(
    "run and exec: --privileged, or a refusal where the host lacks a capability",
    compared=False,
)
def run_privileged(e):
    e.launch("priv", "--", "/bin/sleep", "1000")
    ran = e.run("--privileged", "--", "/bin/sh", "-c", "/bin/show masked; ls /dev | wc -l")
    inner = e.docker("exec", "--privileged", "priv", "/bin/show", "credentials")
    e.clear()
    if ran.code == 125:
        expect("operation not permitted" in ran.err and inner.code == 126, ran.seen(), inner.seen())
        return None
    expect(
        ran.code == 0
        and "timer_list regular empty file" in ran.out
        and int(ran.out.splitlines()[-1]) > 20,
        ran.seen(),
    )
    effective = int(inner.out.split("CapEff:")[1].split()[0], 16)
    expect(
        effective >> 21 & 1 and effective >> 12 & 1,
        "CAP_SYS_ADMIN or CAP_NET_ADMIN is missing:",
        inner.seen(),
    )
    return None


@drills("run: --pid host, --ipc, --uts, --network host, none, container")
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
    expect(
        seen["--pid container:other"][1].endswith("/bin/sleep 1000 \n")
        or "/bin/sleep" in seen["--pid container:other"][1],
        seen,
    )
    return seen


@drills("network: the prestart hook has set an address; a published port")
def network(e):
    e.launch(
        "web",
        "--publish",
        "127.0.0.1:18081:8080",
        "--",
        "/usr/sbin/httpd",
        "-f",
        "-p",
        "8080",
        "-h",
        "/etc",
    )
    address = e.inspect("web")["NetworkSettings"]["IPAddress"]
    expect(address.startswith("172."), address)
    e.s.until("an answer", lambda: answers((address, 8080)) and answers(("127.0.0.1", 18081)))
    resolver = e.docker("exec", "web", "/bin/cat", "/etc/hosts").ok().out
    e.remove("web")
    expect(address in resolver, resolver)
    return None


@drills("network: two containers by name on a network of their own")
def user_network(e):
    e.docker("network", "create", "own").ok()
    e.launch("server", "--network", "own", "--", "/usr/sbin/httpd", "-f", "-p", "80", "-h", "/etc")
    ran = e.run("--network", "own", "--", "/usr/bin/wget", "-q", "-O", "-", "http://server/group")
    e.docker("network", "connect", "bridge", "server").ok()
    second = (
        e.docker("exec", "server", "/bin/sh", "-c", "/sbin/ip -o link | /bin/grep -c eth").ok().out
    )
    e.remove("server")
    e.docker("network", "rm", "own").ok()
    expect("extra:x:2000" in ran.out, ran.seen())
    return [ran.code, second]


@drills("health check")
def health(e):
    e.launch(
        "well",
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "300ms",
        "--health-retries",
        "1",
        "--",
        "/bin/sleep",
        "1000",
    )

    def status():
        return e.inspect("well")["State"]["Health"]

    e.s.until("unhealthy", lambda: status()["Status"] == "unhealthy")
    e.docker("exec", "well", "/bin/touch", "/tmp/well").ok()
    e.s.until("healthy", lambda: status()["Status"] == "healthy")
    log = status()["Log"][-1]
    e.remove("well")
    return [log["ExitCode"], log["Output"]]


@drills("exec: status, 126, 127, user, cwd, environment, paused, stopped")
def exec_status(e):
    e.launch("xx", "--", "/bin/sleep", "1000")
    cases = exec_cases("xx")
    ran = [e.docker("exec", *case) for case in cases]
    e.docker("pause", "xx").ok()
    paused = e.docker("exec", "xx", "/bin/true")
    e.docker("unpause", "xx").ok()
    e.docker("kill", "xx").ok()
    stopped = e.docker("exec", "xx", "/bin/true")
    e.remove("xx")
    expect(
        ran[0].seen() == {"code": 5, "out": "o\n", "err": "e\n"} and ran[6].code == 137,
        [r.seen() for r in ran],
    )
    expect(all(r.code in (126, 127) for r in ran[1:4]), [r.seen() for r in ran[1:4]])

    # the text of a refused exec comes on stdout
    def told(r):
        return phrases(r.out + r.err) if r.code in (125, 126, 127) else r.out

    return [[r.code, told(r)] for r in [*ran, paused, stopped]]


@drills("exec -it: a terminal, its size, its resizing")
def exec_terminal(e):
    e.launch("xt", "--", "/bin/sleep", "1000")
    status, shown = e.s.terminal(
        CLIENT, "--host", e.host, "exec", "-it", "xt", "/bin/sh", script=RESIZING
    )
    e.remove("xt")
    expect(status == 9, status, shown)
    return status


@drills("run -it: a terminal, detached by keys, attached again")
def run_terminal(e):
    argv = [CLIENT, "--host", e.host]
    status, _ = e.s.terminal(
        *argv,
        "run",
        "-it",
        "--name",
        "term",
        image.NAME,
        "/bin/sh",
        script=[(r"[#$] ", "tty; /bin/stty size\n"), (r"24 80", "\x10\x11")],
    )
    running = e.inspect("term")["State"]["Running"]
    ended, again = e.s.terminal(
        *argv, "attach", "term", script=[(r"", "echo back; exit 8\n"), (r"\nback", None)]
    )
    e.remove("term")
    expect(running and ended == 8, running, ended, again)
    return [status, ended]


@drills("run -i: stdin to its end; a megabyte of output")
def run_stdin(e):
    text = "".join(f"line {i}\n" for i in range(20000))
    ran = e.run("-i", "--", "/usr/bin/md5sum", stdin=text)
    many = e.run("--", "/usr/bin/seq", "1", "150000")
    expect(many.out.count("\n") == 150000, many.code, len(many.out))
    return ran.out


@drills("pause and unpause, top, logs, wait, restart")
def life(e):
    pid = e.launch("life", "--", "/bin/sh", "-c", "echo said; echo err >&2; exec /bin/sleep 1000")
    e.docker("pause", "life").ok()
    paused = e.inspect("life")["State"]["Status"]
    e.docker("unpause", "life").ok()
    top = e.docker("top", "life").ok().out.splitlines()
    logs = e.s.until(
        "logs", lambda: (lambda r: r if r.out and r.err else None)(e.docker("logs", "life"))
    ).seen()
    e.docker("restart", "--time", "0", "life").ok()
    expect(not alive(pid) and e.inspect("life")["State"]["Running"], "not restarted")
    e.docker("kill", "--signal", "KILL", "life").ok()
    waited = e.docker("wait", "life").ok().out
    again = e.docker("kill", "life")
    e.remove("life")
    expect(paused == "paused" and "/bin/sleep 1000" in top[-1], paused, top)
    return [paused, logs, waited, again.code, phrases(again.err)]


@drills("update")
def update(e):
    e.launch(
        "up",
        "--memory",
        "64m",
        "--memory-swap",
        "128m",
        "--cpus",
        "0.5",
        "--",
        "/bin/sleep",
        "1000",
    )
    e.docker(
        "update",
        "--memory",
        "96m",
        "--cpus",
        "0.3",
        "--cpu-shares",
        "200",
        "--pids-limit",
        "50",
        "up",
    ).ok()
    seen = [
        e.cgroup("up", c, f)
        for c, f in [
            ("memory", "memory.limit_in_bytes"),
            ("cpu", "cpu.cfs_quota_us"),
            ("cpu", "cpu.shares"),
            ("pids", "pids.max"),
        ]
    ]
    e.remove("up")
    expect(seen == [str(96 << 20), "30000", "200", "50"], seen)
    return seen


@drills("stats")
def stats(e):
    e.launch("st", "--", "/bin/sh", "-c", "x=$(/usr/bin/seq 1 20000); exec /bin/sleep 1000")
    shown = load(e.docker("stats", "--no-stream", "--format", "{{json .}}", "st").ok().out)
    e.remove("st")
    expect(shown["PIDs"] == "1" and not shown["MemUsage"].startswith("0B"), shown)
    return shown["PIDs"]


@drills("restart policy; a container whose process dies")
def restart_policy(e):
    pid = e.launch("again", "--restart", "always", "--", "/bin/sleep", "1000")
    e.s.run("kill", "-KILL", str(pid)).ok()
    e.s.until(
        "the restart",
        lambda: (lambda s: s["Running"] and s["Pid"] != pid)(e.inspect("again")["State"]),
    )
    count = e.inspect("again")["RestartCount"]
    e.remove("again")
    return count


@drills("commit, cp, diff, export of a container")
def files(e):
    e.launch("fs", "--", "/bin/sh", "-c", "echo made >/made; exec /bin/sleep 1000")
    e.s.until("the file", lambda: e.docker("exec", "fs", "/usr/bin/test", "-e", "/made").code == 0)
    (e.s.scratch / "in").write_text("copied\n")
    e.docker("cp", e.s.scratch / "in", "fs:/tmp/in").ok()
    seen = [
        e.docker("exec", "fs", "/bin/cat", "/tmp/in").ok().out,
        sorted(e.docker("diff", "fs").ok().out.split("\n")),
    ]
    e.docker("commit", "fs", "committed:drill").ok()
    seen.append(e.docker("run", "--rm", "committed:drill", "/bin/cat", "/made").ok().out)
    e.remove("fs")
    e.docker("rmi", "committed:drill").ok()
    return seen


DOCKERFILE = f"""FROM {image.NAME}
RUN /bin/sh -c 'id > /who; echo built > /built'
USER user
RUN id > /tmp/user
CMD ["/bin/cat", "/who", "/built", "/tmp/user"]
"""


@drills("build of a Containerfile with RUN, USER, HEALTHCHECK")
def build(e):
    context = e.s.scratch / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(DOCKERFILE)
    built = e.docker("build", "--tag", "built:drill", context, env={"DOCKER_BUILDKIT": "0"})
    expect(built.code == 0, built.seen())
    failing = context / "failing"
    failing.write_text(f"FROM {image.NAME}\nRUN exit 9\n")
    failed = e.docker(
        "build", "--force-rm", "--file", failing, context, env={"DOCKER_BUILDKIT": "0"}
    )
    ran = e.docker("run", "--rm", "built:drill").ok().out
    expect(
        "uid=0" in ran and "uid=1000" in ran and "returned a non-zero code: 9" in failed.err,
        ran,
        failed.err,
    )
    return [ran, failed.code]


@drills("user namespace of the daemon's containers: --userns host refused or kept")
def userns(e):
    return e.run("--userns", "host", "--", "/bin/cat", "/proc/self/uid_map").seen()


@drills("dockerd is killed and started again with a live container")
def restarted(e):
    pid = e.launch("live", "--", "/bin/trap")
    e.s.until("readiness", lambda: "ready" in e.docker("logs", "live").out)
    containerd = living("containerd --config")
    e.daemon.send_signal(signal.SIGKILL)
    e.daemon.wait()
    for p in containerd:
        e.s.run("kill", "-KILL", str(p))
    e.s.until("the old containerd's end", lambda: not [p for p in containerd if alive(p)])
    (e.s.scratch / "docker.pid").unlink(missing_ok=True)
    expect(alive(pid), "it died with the daemon")
    e.up()
    expect(e.inspect("live")["State"]["Pid"] == pid, e.inspect("live")["State"])
    ran = e.docker("exec", "live", "/bin/sh", "-c", "exit 4")
    e.docker("stop", "--time", "20", "live").ok()
    code = e.inspect("live")["State"]["ExitCode"]
    e.remove("live")
    expect(ran.code == 4 and code == 42, ran.seen(), code)
    return [ran.code, code]


@drills("20 containers, 5 at a time")
def many(e):
    with ThreadPoolExecutor(5) as pool:
        pids = list(
            pool.map(lambda i: e.launch(f"many{i}", "--", "/bin/sleep", "10000"), range(20))
        )
    expect(all(alive(p) for p in pids), "not all run")
    e.remove(*[f"many{i}" for i in range(20)])
    expect(not [p for p in pids if alive(p)], "some live")
    return len(pids)


def counted(e, name):
    """The number that a container of COUNTING has reached."""
    return int(e.docker("exec", name, "/bin/cat", "/tmp/count").out.strip() or 0)


@drills("checkpoint: left running, ended; listed, and started from it")
def checkpoint(e):
    checkpoints.criu_works(e.s)
    e.launch("cp", "--network", "none", "--", *checkpoints.COUNTING)
    pid = e.inspect("cp")["State"]["Pid"]
    e.s.until("some numbers", lambda: counted(e, "cp") > 5)
    first = e.docker("checkpoint", "create", "--leave-running", "cp", "first")
    expect(first.code == 0 and alive(pid), first.seen())
    second = e.docker("checkpoint", "create", "cp", "second")
    e.s.until("its end", lambda: not alive(pid) and not e.inspect("cp")["State"]["Running"])
    listed = e.docker("checkpoint", "ls", "cp").ok().out.split()
    started = e.docker("start", "--checkpoint", "second", "cp")
    at = counted(e, "cp") if started.code == 0 else 0
    if at:
        e.s.until("it to count on", lambda: counted(e, "cp") > at + 3)
    e.remove("cp")
    expect(second.code == 0 and "first" in listed and "second" in listed, second.seen(), listed)
    expect(started.code == 0 and at > 5, started.seen(), at)
    return None


@drills("nothing is left at the end")
def nothing_left(e):
    left = e.docker("ps", "--all", "--no-trunc").ok().out.splitlines()[1:]
    expect(not left, "containers left:", left)
    e.s.state_roots_empty(*(e.s.scratch / "docker-exec").glob("runtime-*/moby"))
    e.s.gone("the shims", "containerd-shim")
    e.s.no_cgroups_left()
    return None
