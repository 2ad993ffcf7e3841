"""containerd, driven by its own client ctr."""

import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints
import image
from daemon import Daemon
from drill import Drills, expect, phrases
from session import RESIZING, alive, living, load, parent, processes, stat_of

drills = Drills()


class Containerd(Daemon):
    """A containerd daemon of our own and the containers made in it."""

    def __init__(self, session):
        super().__init__(
            session, 2, disabled=("io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt")
        )
        self.roots = session.scratch / "runtime-root"
        self.program = session.path

    def ctr(self, *argv, **more):
        """Run a ctr command. containerd's namespace is the parent cgroup of all containers here."""
        return self.s.run(*self.client(self.s.tag, *argv), **more)

    def options(self):
        """The flags of `ctr run` that choose the runtime."""
        return ["--runc-binary", self.program, "--runc-root", self.roots]

    def run(self, name, *argv, flags=(), **more):
        """A container in the foreground, removed at its end."""
        return self.ctr("run", "--rm", *self.options(), *flags, image.NAME, name, *argv, **more)

    def launch(self, name, *argv, flags=()):
        """A container in the background; returns the id of its process."""
        self.ctr("run", "--detach", *self.options(), *flags, image.NAME, name, *argv).ok()
        return self.pid(name)

    def task(self, name):
        """(pid, status) of a task as `task ls` prints it; None without a task."""
        for line in self.ctr("task", "ls").ok().out.splitlines()[1:]:
            found = line.split()
            if found and found[0] == name:
                return int(found[1]), found[2]
        return None

    def pid(self, name):
        """The id of a container's first process."""
        return self.task(name)[0]

    def delete(self, name):
        """Delete a stopped task; returns the exit status of its process, which ctr only tells in
        words.
        """
        said = self.ctr("task", "delete", name).ok().err
        told = re.search(r"exit with non-zero exit code (\d+)", said)
        return int(told.group(1)) if told else 0

    def exec(self, name, *argv, flags=(), **more):
        """A process in a running container."""
        return self.ctr("task", "exec", "--exec-id", "e", *flags, name, *argv, **more)

    def exec_terminal(self, name):
        """A shell on a terminal in a running container, which ends with 6: the exit status and all
        that was printed.
        """
        argv = ["task", "exec", "--exec-id", "t", "--tty", name, "/bin/sh"]
        script = [(r"[#$] ", "test -t 0 && /bin/stty size\n"), (r"24 80", "exit 6\n")]
        return self.s.terminal(*self.client(self.s.tag, *argv), script=script)

    def await_status(self, name, status):
        """Wait for a task's status."""
        self.s.until(f"{name} {status}", lambda: (self.task(name) or (0, ""))[1] == status)

    def remove(self, name):
        """Kill and delete a container, with its task, whatever its state."""
        if self.task(name):
            self.ctr("task", "kill", "--all", "--signal", "9", name)
            self.await_status(name, "STOPPED")
            self.ctr("task", "delete", name)
        self.ctr("container", "delete", name).ok()

    def clear(self):
        """Remove what a failed drill has left, so that the next one starts from nothing."""
        if self.daemon.poll() is not None:
            self.up()
        for name in self.ctr("container", "ls", "--quiet").out.split():
            self.ctr("task", "delete", "--force", name)
            self.ctr("container", "delete", name)

    def gone(self, name):
        """Nothing is left of a container: state, cgroups, shim."""
        expect(not list(self.roots.glob(f"*/{name}")), "state left:", list(self.roots.glob("*/*")))
        left = self.s.cgroups(f"/{self.s.tag}/{name}/")
        expect(not left, "cgroups left:", left)
        self.s.gone("the shim", f"-id {name} ")


def start(session):
    """A running containerd with the image in it."""
    engine = Containerd(session)
    engine.up()
    engine.ctr("image", "import", session.work / "busybox.tar").ok()
    return engine


@drills("run: output, exit status, nothing left")
def run_status(e):
    seen = [
        e.run("r1", "/bin/sh", "-c", "echo out; echo err >&2; exit 7").seen(),
        e.run("r2", "/bin/true").seen(),
    ]
    expect(seen[0] == {"code": 7, "out": "out\n", "err": "err\n"}, seen[0])
    expect(seen[1]["code"] == 0, seen[1])
    e.gone("r1")
    e.gone("r2")
    return seen


@drills("run: killed by a signal gives 128+n")
def run_signalled(e):
    pid = e.launch("sig", "/bin/sleep", "100")
    e.ctr("task", "kill", "--signal", "SIGKILL", "sig").ok()
    e.await_status("sig", "STOPPED")
    expect(not alive(pid), "still alive")
    status = e.delete("sig")
    e.remove("sig")
    expect(status == 137, "status", status)
    return status


@drills("run: stdin to its end")
def run_stdin(e):
    text = "".join(f"line {i}\n" for i in range(20000))
    ran = e.run("in", "/usr/bin/md5sum", stdin=text)
    expect(ran.code == 0, ran.seen())
    return ran.out


@drills("run: a megabyte of output, none lost")
def run_output(e):
    ran = e.run("out", "/bin/sh", "-c", "/usr/bin/seq 1 150000")
    expect(ran.code == 0 and ran.out.count("\n") == 150000, ran.code, len(ran.out))
    return len(ran.out)


@drills("run: missing program, directory, no permission, no format, no interpreter")
def run_wrong_program(e):
    seen = {}
    for name in [
        "/nowhere",
        "nowhere",
        "/tmp",
        "/bin/not-executable",
        "/bin/no-format",
        "/bin/no-interpreter",
    ]:
        ran = e.run("wrong", name)
        expect(ran.code != 0 and "unable to retrieve OCI runtime error" not in ran.err, ran.seen())
        seen[name] = [ran.code, phrases(ran.err)]
        e.gone("wrong")
    return seen


@drills("run: users and working directories")
def run_user(e):
    with_user = e.run(
        "user", "/bin/show", "credentials", flags=["--cwd", "/made/here", "--env", "A=b"]
    )
    where = e.run("cwd", "/bin/show", "place", flags=["--cwd", "/made/here"])
    expect(where.out.startswith("/made/here"), where.seen())
    return [with_user.out, where.out]


for aspect in image.ASPECTS:

    @drills(f"seen in the container: {aspect}")
    def seen_in_container(e, aspect=aspect):
        return e.run("seen", "/bin/show", aspect).ok().out


@drills("seen in the container: descriptors")
def seen_descriptors(e):
    listing = e.run("fds", "/bin/ls", "-l", "/proc/self/fd").ok().out
    return sorted(line.split()[-3:] for line in listing.splitlines() if "->" in line)


@drills("seen in the container: with the default seccomp profile")
def seen_seccomp(e):
    ran = e.run(
        "sec",
        "/bin/sh",
        "-c",
        "/bin/show credentials; /usr/bin/unshare -n /bin/true; echo $?",
        flags=["--seccomp"],
    )
    expect("Seccomp:\t2" in ran.out, ran.seen())
    return [ran.out, phrases(ran.err)]


@drills("run: capabilities added and dropped, new privileges allowed")
def run_capabilities(e):
    flags = ["--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN", "--allow-new-privs"]
    return e.run("caps", "/bin/show", "credentials", flags=flags).ok().out


@drills("run: privileged")
def run_privileged(e):
    ran = e.run("priv", "/bin/show", "masked", flags=["--privileged"])
    return [ran.code, ran.out, phrases(ran.err)]


@drills("run: read-only root, bind mounts, tmpfs")
def run_mounts(e):
    volume = e.s.scratch / "volume"
    volume.mkdir(exist_ok=True)
    (volume / "file").write_text("content\n")
    flags = [
        "--read-only",
        "--mount",
        f"type=bind,src={volume},dst=/in/ro,options=rbind:ro",
        "--mount",
        f"type=bind,src={volume},dst=/in/rw,options=rbind:rw",
        "--mount",
        f"type=bind,src={volume}/file,dst=/in/file,options=bind:ro",
        "--mount",
        "type=tmpfs,dst=/fresh,options=size=1m:noexec",
    ]
    script = (
        "touch /x; touch /in/ro/y; touch /in/rw/z && echo written; cat /in/file; "
        "stat -f -c %T /fresh; /bin/show mounts"
    )
    ran = e.run("mounts", "/bin/sh", "-c", script, flags=flags)
    expect((volume / "z").exists(), ran.seen())
    return [ran.out, ran.err]


@drills("run: a mount whose source is missing")
def run_bad_mount(e):
    ran = e.run(
        "bad", "/bin/true", flags=["--mount", "type=bind,src=/nowhere,dst=/x,options=rbind:ro"]
    )
    expect(ran.code == 1, ran.seen())
    e.gone("bad")
    return phrases(ran.err)


@drills("run: memory, cpu and pids limits in the cgroup")
def run_limits(e):
    flags = ["--memory-limit", "67108864", "--cpus", "0.5", "--cpu-shares", "512"]
    pid = e.launch("limits", "/bin/sleep", "100", flags=flags)
    values = {}
    for controller, file in [
        ("memory", "memory.limit_in_bytes"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.shares"),
    ]:
        at = Path(f"/sys/fs/cgroup/{controller}/{e.s.tag}/limits")
        values[file] = (at / file).read_text().strip()
        expect(
            str(pid) in (at / "cgroup.procs").read_text().split(),
            controller,
            "does not hold the process",
        )
    e.remove("limits")
    e.gone("limits")
    expect(values["memory.limit_in_bytes"] == "67108864", values)
    return values


@drills("run: out of memory ends with 137 and the event")
def run_oom(e):
    events = e.s.start(*e.client(e.s.tag, "events"), log="oom-events.log")
    log = e.s.work / "oom-events.log"

    def event():
        # The listener may not listen yet, and the shim may see the end before the event. tail -c
        # allocates what it is told to keep.
        ran = e.run(
            "oom", "/usr/bin/tail", "-c", "200m", "/dev/zero", flags=["--memory-limit", "16777216"]
        )
        expect(ran.code == 137, ran.seen())
        return "/tasks/oom" in log.read_text()

    e.s.until("the oom event", event)
    events.terminate()
    events.wait(30)


@drills("run: a device, and the devices cgroup")
def run_device(e):
    script = (
        "/bin/stat -c '%F %t,%T %a' /dev/fuse; : </dev/fuse && echo opened;"
        "/bin/mknod /tmp/kmsg c 1 11 && : </tmp/kmsg && echo allowed"
    )
    ran = e.run("dev", "/bin/sh", "-c", script, flags=["--device", "/dev/fuse"])
    expect("opened" in ran.out and "allowed" not in ran.out, ran.seen())
    return [ran.out, phrases(ran.err)]


@drills("run: network namespace joined by path")
def run_join(e):
    e.s.run("ip", "netns", "add", "joined").ok()
    try:
        e.s.run(
            "ip", "-n", "joined", "link", "add", "marker", "type", "veth", "peer", "name", "other"
        ).ok()
        ran = e.run(
            "join", "/sbin/ip", "-o", "link", flags=["--with-ns", "network:/run/netns/joined"]
        )
        expect("marker" in ran.out, ran.seen())
    finally:
        e.s.run("ip", "netns", "delete", "joined")
    return ran.code


@drills("run: user namespace with mapped ids")
def run_userns(e):
    flags = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"]
    ran = e.run(
        "uns",
        "/bin/sh",
        "-c",
        "/bin/cat /proc/self/uid_map; /bin/show credentials; /bin/stat -c %u /bin",
        flags=flags,
    )
    expect("100000" in ran.out, ran.seen())
    return ran.out


@drills("run: a plain directory as root filesystem")
def run_rootfs(e):
    root = e.s.scratch / "plain"
    image.unpack(root)
    ran = e.ctr(
        "run", "--rm", *e.options(), "--rootfs", root, "plain", "/bin/sh", "-c", "echo here; exit 3"
    )
    expect(ran.code == 3 and ran.out == "here\n", ran.seen())
    e.gone("plain")
    return ran.seen()


@drills("run: a terminal, its size, its resizing")
def run_terminal(e):
    argv = ["run", "--rm", "--tty", *e.options(), image.NAME, "term", "/bin/sh"]
    status, shown = e.s.terminal(*e.client(e.s.tag, *argv), script=RESIZING)
    expect(status == 9, status, shown)
    return status


@drills("run: output to a file by the shim")
def run_log(e):
    log = e.s.scratch / "task.log"
    e.launch(
        "logged", "/bin/sh", "-c", "echo one; echo two >&2", flags=["--log-uri", f"file://{log}"]
    )
    e.await_status("logged", "STOPPED")
    e.remove("logged")
    return sorted(log.read_text().splitlines())


@drills("run: no stdio at all")
def run_null(e):
    e.launch(
        "null",
        "/bin/sh",
        "-c",
        "echo lost; /bin/ls -l /proc/self/fd >/tmp/fds; /bin/sleep 100",
        flags=["--null-io"],
    )
    listing = e.s.until("the listing", lambda: e.exec("null", "/bin/cat", "/tmp/fds").out)
    e.remove("null")
    return sorted(line.split()[-3:] for line in listing.splitlines() if "->" in line)


@drills("exec: output, status, user, cwd, stdin")
def exec_status(e):
    e.launch("x", "/bin/sleep", "100")
    seen = [
        e.exec("x", "/bin/sh", "-c", "echo o; echo e >&2; exit 5").seen(),
        e.exec(
            "x", "/bin/show", "credentials", flags=["--user", "1000:2000", "--cwd", "/tmp"]
        ).seen(),
        e.exec("x", "/bin/sh", "-c", "pwd", flags=["--cwd", "/tmp"]).seen(),
        e.exec("x", "/usr/bin/md5sum", stdin="some text\n" * 5000).seen(),
        e.exec("x", "/bin/sh", "-c", "kill -9 $$").seen(),
    ]
    e.remove("x")
    expect(seen[0] == {"code": 5, "out": "o\n", "err": "e\n"} and seen[4]["code"] == 137, seen)
    return seen


@drills("exec: missing program, no permission, stopped container")
def exec_wrong(e):
    e.launch("xw", "/bin/sleep", "100")
    seen = {}
    for name in ["/nowhere", "nowhere", "/bin/not-executable"]:
        ran = e.exec("xw", name)
        expect(ran.code != 0, ran.seen())
        seen[name] = [ran.code, phrases(ran.err)]
    e.ctr("task", "kill", "--signal", "9", "xw").ok()
    e.await_status("xw", "STOPPED")
    ran = e.exec("xw", "/bin/true")
    seen["stopped"] = [ran.code, phrases(ran.err)]
    e.remove("xw")
    return seen


@drills("exec: sees what the first process sees")
def exec_sees(e):
    e.launch("xi", "/bin/sleep", "100")
    seen = {a: e.exec("xi", "/bin/show", a).ok().out for a in image.ASPECTS}
    e.remove("xi")
    return seen


@drills("exec: a terminal")
def exec_terminal(e):
    e.launch("xt", "/bin/sleep", "100")
    status, shown = e.exec_terminal("xt")
    e.remove("xt")
    expect(status == 6, status, shown)
    return status


@drills("exec: detached, in the task list, its orphan adopted")
def exec_detached(e):
    e.launch("xd", "/bin/pause")
    e.exec("xd", "/bin/sh", "-c", "/bin/sleep 77 & exit 0", flags=["--detach"]).ok()
    listed = e.ctr("task", "ps", "xd").ok().out.splitlines()
    expect(listed[0].split()[0] == "PID" and len(listed) >= 2, listed)

    def adopted():
        return [p for p in living("/bin/sleep 77") if parent(p) == e.pid("xd")]

    (orphan,) = e.s.until("the orphan's adoption", adopted)
    e.remove("xd")
    expect(not alive(orphan), "kill --all left the orphan")
    return None


@drills("pause and resume")
def pause(e):
    pid = e.launch("p", "/bin/sh", "-c", "while :; do /bin/date +%N >/tmp/now; done")
    e.ctr("task", "pause", "p").ok()
    expect(e.task("p")[1] == "PAUSED", e.task("p"))

    def ticks():
        return stat_of(pid)[11:15]

    frozen = ticks()
    refused = e.exec("p", "/bin/true")
    expect(ticks() == frozen, "it ran while paused")
    e.ctr("task", "resume", "p").ok()
    expect(e.task("p")[1] == "RUNNING", e.task("p"))
    ran = e.exec("p", "/bin/true")
    e.remove("p")
    return [refused.code, phrases(refused.err), ran.code]


@drills("metrics")
def metrics(e):
    e.launch("m", "/bin/sh", "-c", "x=$(/usr/bin/seq 1 20000); /bin/sleep 100")
    data = e.s.until(
        "cpu time",
        lambda: [
            d
            for d in [load(e.ctr("task", "metrics", "--format", "json", "m").ok().out)]
            if d["cpu"]["usage"]["total"] > 0
        ],
    )[0]
    e.remove("m")
    expect(data["memory"]["usage"]["usage"] > 0 and data["pids"]["current"] >= 1, data)
    return sorted(data)


@drills("kill: by name, by number, caught, twice")
def kill(e):
    seen = []
    for sig in ["SIGTERM", "15"]:
        e.ctr("run", "--detach", *e.options(), image.NAME, "k", "/bin/trap").ok()
        e.s.until(
            "the trap",
            lambda: (
                e.exec("k", "/bin/grep", "SigCgt", "/proc/1/status").out.strip().endswith("4002")
                or e.exec("k", "/bin/grep", "SigCgt", "/proc/1/status").out.strip()[-4] != "0"
            ),
        )
        seen.append(e.ctr("task", "kill", "--signal", sig, "k").code)
        e.await_status("k", "STOPPED")
        again = e.ctr("task", "kill", "--signal", sig, "k")
        seen.append([again.code, phrases(again.err)])
        seen.append(e.delete("k"))
        e.remove("k")
    expect(seen[2] == 42 and seen[5] == 42, seen)
    return seen


@drills("kill --all reaches every process")
def kill_all(e):
    e.launch("ka", "/bin/sh", "-c", "/bin/sleep 88 & /bin/sleep 88 & wait")
    e.exec("ka", "/bin/sleep", "88", flags=["--detach"]).ok()
    pids = e.s.until(
        "three",
        lambda: living("/bin/sleep 88")[2:] and processes("/bin/sleep 88"),
    )
    e.ctr("task", "kill", "--all", "--signal", "KILL", "ka").ok()
    e.await_status("ka", "STOPPED")
    e.s.until("their end", lambda: not [p for p in pids if alive(p)])
    e.remove("ka")
    return None


@drills("delete: refused while running, by force")
def delete(e):
    pid = e.launch("d", "/bin/sleep", "100")
    refused = e.ctr("task", "delete", "d")
    expect(refused.code != 0 and alive(pid), refused.seen())
    forced = e.ctr("task", "delete", "--force", "d")
    e.s.until("its end", lambda: not alive(pid))
    e.ctr("container", "delete", "d").ok()
    e.gone("d")
    return [refused.code, forced.code]


@drills("the shim is killed: nothing of the container survives")
def shim_killed(e):
    pid = e.launch("shim", "/bin/sh", "-c", "/bin/sleep 99 & wait")
    shims = processes("-id shim ")
    expect(len(shims) == 1, shims)
    e.s.run("kill", "-KILL", str(shims[0])).ok()
    e.s.until(
        "the container's end",
        lambda: not alive(pid) and not living("/bin/sleep 99"),
    )
    e.s.until("no task", lambda: (e.task("shim") or (0, "STOPPED"))[1] in ("STOPPED", "UNKNOWN"))
    e.s.until("no cgroup", lambda: not e.s.cgroups(f"/{e.s.tag}/shim/"))
    e.ctr("task", "delete", "shim")
    e.ctr("container", "delete", "shim").ok()
    e.gone("shim")
    return None


@drills("containerd is killed and started again with live tasks")
def restarted(e):
    pid = e.launch("live", "/bin/trap")
    paused = e.launch("live2", "/bin/sleep", "100")
    e.ctr("task", "pause", "live2").ok()
    e.daemon.send_signal(signal.SIGKILL)
    e.daemon.wait()
    expect(alive(pid) and alive(paused), "the containers died with the daemon")
    e.up()
    expect(
        e.task("live") == (pid, "RUNNING") and e.task("live2") == (paused, "PAUSED"),
        e.task("live"),
        e.task("live2"),
    )
    ran = e.exec("live", "/bin/sh", "-c", "echo again; exit 3")
    e.ctr("task", "resume", "live2").ok()
    e.ctr("task", "kill", "live").ok()
    e.await_status("live", "STOPPED")
    ended = e.delete("live")
    for name in ["live", "live2"]:
        e.remove(name)
        e.gone(name)
    expect(ran.code == 3 and ended == 42, ran.seen(), ended)
    return [ran.code, ended]  # ctr may lose the first output behind a restart, with any runtime


def counted(e, name):
    """The number that a container of COUNTING has reached."""
    return int(e.exec(name, "/bin/cat", "/tmp/count").out.strip() or 0)


@drills("checkpoint: into a directory, the container runs on or ends; its images are whole")
def checkpoint(e):
    checkpoints.criu_works(e.s)
    pid = e.launch("cp", *checkpoints.COUNTING)
    e.s.until("some numbers", lambda: counted(e, "cp") > 2)
    seen = []
    for flags in [[], ["--exit"]]:
        images = e.s.scratch / f"cp-images{len(seen)}"
        paths = ["--image-path", images, "--work-path", e.s.scratch / "cp-work"]
        e.ctr("task", "checkpoint", *flags, *paths, "cp").ok()
        names = {p.name.split("-")[0].split(".")[0] for p in images.iterdir()}
        seen.append([alive(pid), {"inventory", "pstree", "core", "pages", "descriptors"} <= names])
    e.await_status("cp", "STOPPED")
    e.remove("cp")
    e.gone("cp")
    expect(seen == [[True, True], [False, True]], seen)
    return seen


@drills(
    "checkpoint: into an image; restore under a new name, its memory and its files as they were"
)
def restore(e):
    checkpoints.criu_works(e.s)
    e.launch("cp", *checkpoints.COUNTING)
    e.s.until("some numbers", lambda: counted(e, "cp") > 9)
    saved = "localhost/checkpoint:drill"
    e.ctr("container", "checkpoint", "--rw", "--image", "--task", "cp", saved).ok()
    e.remove("cp")
    e.ctr("container", "restore", "--rw", "--live", "cp2", saved).ok()
    at = counted(e, "cp2")
    pid = e.s.until("it to go on", lambda: counted(e, "cp2") > at + 5 and e.pid("cp2"))
    e.ctr("task", "kill", "--signal", "9", "cp2").ok()
    e.await_status("cp2", "STOPPED")
    expect(not alive(pid), "it lives on")
    e.remove("cp2")
    e.ctr("image", "rm", saved)
    e.gone("cp2")
    expect(at > 9, "it began anew:", at)
    return None


def many(e, count, width):
    """Start `count` containers, `width` at a time; all must run at once, and all be gone after."""
    names = [f"many{i}" for i in range(count)]

    def call(*argv):
        return subprocess.run(
            e.client(e.s.tag, *argv),
            capture_output=True,
            text=True,
            timeout=300,
            env=e.s.environment,
        )

    def run(n):
        return call("run", "--detach", *e.options(), image.NAME, n, "/bin/sleep", "10000")

    def failed(done):
        return [d.stderr for d in done if d.returncode != 0][:3]

    with ThreadPoolExecutor(width) as pool:
        expect(
            not failed(list(pool.map(run, names))), "run:", failed(list(pool.map(run, names[:1])))
        )
        listed = [line.split() for line in e.ctr("task", "ls").ok().out.splitlines()]
        running = [
            line[0] for line in listed if line[0].startswith("many") and line[2] == "RUNNING"
        ]
        expect(len(running) == count, len(running), "of", count, "run")
        pids = [int(line[1]) for line in listed if line[0].startswith("many")]
        killed = list(pool.map(lambda n: call("task", "delete", "--force", n), names))
        list(pool.map(lambda n: call("container", "delete", n), names))
    e.s.until("their end", lambda: not [p for p in pids if alive(p)])
    expect(
        not [line for line in e.ctr("task", "ls").ok().out.splitlines() if line.startswith("many")],
        "tasks left",
        failed(killed),
    )
    expect(not e.s.cgroups(f"{e.s.tag}/many"), "cgroups left:", e.s.cgroups(f"{e.s.tag}/many")[:3])
    expect(not list(e.roots.glob("*/many*")), "state left")
    return [count, width]


@drills("16 containers, 8 at a time")
def sixteen(e):
    return many(e, 16, 8)


@drills("200 containers, 16 at a time")
def two_hundred(e):
    return many(e, 200, 16)


@drills("nothing is left at the end")
def nothing_left(e):
    e.s.state_roots_empty(e.roots / e.s.tag)
    expect(not e.ctr("container", "ls", "--quiet").ok().out, "containers left")
    e.s.gone("the shims", "containerd-shim")
    e.s.no_cgroups_left()
    return None
