"""What surrounds a container's process when an engine calls the runtime: terminals, descriptors,
signals, stdio, systemd.
"""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from bundle import ConsoleSocket
from drill import Drills, expect
from session import (
    alive,
    descriptor_three,
    notify_socket,
    parent,
    read_some,
    stat_of,
    until_ready,
)

drills = Drills()


def dialogue(r, fd, flags=""):
    """Type at a terminal and read its answer; the file descriptor is closed."""
    os.write(fd, b"/bin/stty size; tty; echo done\n")
    shown, end = "", time.monotonic() + 20
    while "\ndone" not in shown.replace("\r", ""):
        shown += read_some(fd, end) or ""
    os.close(fd)
    return re.findall(r"/dev/pts/\d+|\d+ \d+", shown)


@drills("create with a terminal: its descriptor comes over the console socket")
def console(r):
    b = r.bundle(
        "console",
        ["/bin/sh"],
        terminal=True,
        change=lambda c: c["process"].update(consoleSize={"height": 33, "width": 111}),
    )
    listening = ConsoleSocket(b)
    r.create(b, "--console-socket", listening.path).ok()
    fd, name = listening.terminal()
    r.call("start", "console", bundle=b).ok()
    seen = dialogue(r, fd)
    r.clean(b)
    expect("33 111" in seen, seen)
    return seen, bool(name)


@drills("create with a terminal and no console socket, the reverse: refused")
def console_missing(r):
    b = r.bundle("noconsole", ["/bin/sh"], terminal=True)
    seen = [r.create(b).code]
    r.clean(b)
    b = r.bundle("noterminal", ["/bin/sh"])
    seen.append(r.create(b, "--console-socket", ConsoleSocket(b).path).code)
    r.clean(b)
    expect(all(seen), seen)
    return seen


for style, flags in [("containerd", []), ("conmon", ["--tty"])]:

    @drills(f"exec with a terminal as {style} does")
    def exec_console(r, style=style, flags=flags):
        b = r.bundle("xt")
        r.create(b, style=style).ok()
        r.call("start", "xt", bundle=b, style=style).ok()
        listening = ConsoleSocket(b)
        r.exec(
            b,
            "/bin/sh",
            flags=[*flags, "--console-socket", listening.path],
            process={"terminal": True},
            style=style,
        ).ok()
        fd, name = listening.terminal()
        expect((b / "exec.pid").exists(), "no pid file")
        seen = dialogue(r, fd)
        r.clean(b, style)
        return seen, bool(name)


@drills("descriptors: none but 0, 1, 2 reaches the container, whatever was open")
def stray(r):
    b = r.bundle("stray", ["/bin/ls", "-l", "/proc/self/fd"])
    ends = os.pipe()
    if ends[0] != 3:
        os.dup2(ends[0], 3, inheritable=True)
    try:
        r.create(b, fds=(3, ends[1])).ok()
        r.call("start", "stray", bundle=b).ok()
        r.await_status(b, "stopped")
    finally:
        for fd in {3, *ends}:
            os.close(fd)
    out = (b / "create.out").read_text()
    r.clean(b)
    return out.count("->")


@drills("descriptors: --preserve-fds passes them on, at create and exec")
def preserved(r):
    script, got = "/bin/cat <&3 >/tmp/from-3", r.rootfs / "tmp/from-3"
    more = {"fds": (3,), "style": "conmon"}
    seen = []
    for verb in ["create", "exec"]:
        b = r.bundle("kept", ["/bin/sh", "-c", f"{script}; /bin/sleep 100"])
        source = (b / "config.json").read_text()
        (b / "source").write_text(source)
        if verb == "exec":
            r.bundle("kept")
        try:
            with descriptor_three(b / "source"):
                if verb == "create":
                    r.create(b, "--preserve-fds", "1", **more).ok()
                    r.call("start", "kept", bundle=b, style="conmon").ok()
                else:
                    r.create(b, style="conmon").ok()
                    r.call("start", "kept", bundle=b, style="conmon").ok()
                    flags = ["--preserve-fds", "1"]
                    r.exec(b, "/bin/sh", "-c", script, flags=flags, **more).ok()
                r.s.until("content", lambda: got.exists() and got.read_text() == source)
                seen.append(True)
        finally:
            r.clean(b, "conmon")
            got.unlink(missing_ok=True)
    return seen


@drills("signals: SIGPIPE and SIGQUIT that arrive ignored are not inherited")
def signals(r):
    b = r.bundle("signals", ["/bin/grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"])
    ignored = [signal.SIGPIPE, signal.SIGQUIT]
    ran = r.call("run", "--bundle", b, "signals", bundle=b, inherited=ignored).ok()
    expect(
        "SigIgn:\t0000000000000000" in ran.out and "SigBlk:\t0000000000000000" in ran.out, ran.out
    )
    b = r.running("sigexec")
    r.exec(b, "/bin/grep", "-E", "Sig(Ign|Blk)", "/proc/self/status", inherited=ignored).ok()
    r.s.until("output", lambda: "SigIgn:\t0000000000000000" in (b / "exec.out").read_text())
    r.clean(b)


@drills("environment: the daemon's and conmon's own variables stay out")
def environment(r):
    b = r.bundle("env", ["/usr/bin/env"])
    noise = {
        "TTRPC_ADDRESS": "/x",
        "GOMAXPROCS": "2",
        "_OCI_SYNCPIPE": "9",
        "_OCI_STARTPIPE": "8",
        "NOISE": "1",
    }
    ran = r.call("run", "--bundle", b, "env", bundle=b, env=noise).ok()
    expect(not [n for n in noise if n in ran.out], ran.out)
    return sorted(ran.out.splitlines())


@drills("run: LISTEN_FDS as systemd passes them")
def listen(r):
    b = r.bundle(
        "listen",
        ["/bin/sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; /bin/ls /proc/self/fd | /usr/bin/wc -l"],
    )
    shell = ["sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"', "-"]
    with descriptor_three(b / "config.json"):
        ran = r.s.run(*shell, *command(r, "listen"), pass_fds=(3,)).ok()
    r.clean(b)
    expect(ran.out.startswith("1 1\n"), ran.out)
    return ran.out


@drills("run: NOTIFY_SOCKET is offered to the container and READY=1 passed on")
def notify(r):
    b = r.bundle("notify", ["/bin/sh", "-c", "echo $NOTIFY_SOCKET >/tmp/notify; /bin/sleep 1000"])
    (r.rootfs / "tmp/notify").unlink(missing_ok=True)
    at_file, path = r.rootfs / "tmp/notify", b / "notify.sock"
    argv = command(r, "notify", "--pid-file", str(b / "run.pid"))
    with (
        notify_socket(path) as ours,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs,
    ):
        runner = r.s.start(*argv, log="notify.log", env={"NOTIFY_SOCKET": str(path)})
        at = r.s.until("its start", lambda: at_file.exists() and at_file.read_text().strip())
        pid = (b / "run.pid").read_text()
        theirs.connect(f"/proc/{pid}/root{at}")  # as the container's own process would
        theirs.send(b"READY=1\n")
        said = until_ready(ours)
        os.kill(int(pid), signal.SIGKILL)
        runner.wait(30)
    r.clean(b)
    expect("READY=1" in said, said)
    return at


def command(r, name, *flags):
    """The arguments of `run` for a bundle, as a user types them."""
    bundle = str(r.s.scratch / "bundles" / name)
    return [r.s.path, "--root", str(r.root), "run", *flags, "--bundle", bundle, name]


@drills("run: a terminal, its size, its resizing, its settings afterwards")
def run_terminal(r):
    b = r.bundle("term", ["/bin/sh"], terminal=True)
    script = (
        'before=$(stty -g); "$@"; status=$?; '
        'test "$before" = "$(stty -g)" && echo restored; exit $status'
    )
    shell = ["sh", "-c", script, "-"]
    status, shown = r.s.terminal(
        *shell,
        *command(r, "term"),
        size=(31, 97),
        script=[
            (r"[#$] ", "test -t 0 && /bin/stty size; tty\n"),
            (r"31 97", (52, 133)),
            (r"dev/pts/\d", None),
            (r"[#$] ", "sleep 1; /bin/stty size\n"),
            (r"52 133", "exit 9\n"),
            (r"restored", None),
        ],
    )
    r.clean(b)
    expect(status == 9, status, shown)


@drills("run: signals are passed on to the container")
def run_signals(r):
    b = r.bundle("passed", ["/bin/trap"])
    log = r.s.work / "passed.log"
    log.unlink(missing_ok=True)
    runner = r.s.start(*command(r, "passed"), log="passed.log")
    r.s.until("readiness", lambda: "ready" in log.read_text())
    runner.send_signal(signal.SIGTERM)
    status = runner.wait(30)
    r.clean(b)
    expect(status == 42, status)
    return log.read_text().splitlines()


@drills("run: every signal that can be caught is passed on, by its number")
def run_all_signals(r):
    names = ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "CONT", "WINCH"]
    # 40 is a real-time signal; Go's programs keep 32 to 34 for themselves.
    numbers = [*(int(getattr(signal, "SIG" + n)) for n in names), 40]
    traps = " ".join(f"trap 'echo got {n}' {n};" for n in numbers)
    b = r.bundle(
        "signalled",
        [
            "/bin/sh",
            "-c",
            f"{traps} trap 'exit 44' TERM; echo ready; while :; do /bin/sleep 0.05; done",
        ],
    )
    log = r.s.work / "signalled.log"
    log.unlink(missing_ok=True)
    runner = r.s.start(*command(r, "signalled"), log="signalled.log")
    r.s.until("readiness", lambda: "ready" in log.read_text())
    for number in numbers:
        runner.send_signal(number)
        if number != signal.SIGWINCH:  # of which a runtime without a terminal may make nothing
            r.s.until(f"signal {number}", lambda: f"got {number}\n" in log.read_text())
    runner.send_signal(signal.SIGTERM)
    status = runner.wait(30)
    r.clean(b)
    expect(status == 44, status)
    return [
        status,
        [line for line in log.read_text().splitlines() if line != f"got {int(signal.SIGWINCH)}"],
    ]


@drills("run --detach: the runtime ends, the container stays, its pid file is right")
def run_detach(r):
    b = r.bundle("detached")
    done = r.call(
        "run", "--detach", "--bundle", b, "--pid-file", b / "run.pid", "detached", bundle=b
    ).ok()
    pid = int((b / "run.pid").read_text())
    running, adopted_by = alive(pid), parent(pid)
    status = r.status(b)
    r.clean(b)
    expect(running and status == "running" and adopted_by == 1, running, status, adopted_by)
    return done.out, done.err


@drills("run: orphans of the container leave no zombies")
def run_zombies(r):
    script = (
        "for i in 1 2 3 4 5; do (/bin/sleep 0.1 &); done; /bin/sleep 1; "
        "echo ready; exec /bin/sleep 1000"
    )

    def without_pid(c):
        c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] != "pid"]

    b = r.bundle("zombies", ["/bin/sh", "-c", script], change=without_pid)
    log = r.s.work / "zombies.log"
    log.unlink(missing_ok=True)
    runner = r.s.start(*command(r, "zombies"), log="zombies.log")
    r.s.until("readiness", lambda: "ready" in log.read_text())

    stats = {p.name: stat_of(p.name) for p in Path("/proc").glob("[0-9]*")}
    left = [pid for pid, f in stats.items() if f and (f[0], int(f[1])) == ("Z", runner.pid)]
    r.call("kill", "--all", "zombies", "9", bundle=b)
    status = runner.wait(30)
    r.clean(b)
    expect(not left, "zombies:", left)
    return status


@drills("run: stdin, stdout and stderr closed")
def run_closed(r):
    b = r.bundle("closed", ["/bin/sh", "-c", "/bin/ls -l /proc/self/fd >/tmp/closed; exit 6"])
    shell = ["sh", "-c", '"$@" <&- >&- 2>&-', "-"]
    status = r.s.run(*shell, *command(r, "closed")).code
    listing = (r.rootfs / "tmp/closed").read_text()
    r.clean(b)
    expect(status == 6, status, listing)
    return status


# What a container's shim is: a subreaper that calls create and start, and then waits for the
# container's process itself.
SHIM = """import ctypes, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
runtime, bundle, name, verb = sys.argv[1:5]
made = ["--bundle", bundle, "--pid-file", "shim.pid", name]
calls = {"create": [["create", *made], ["start", name]], "run": [["run", "--detach", *made]]}
for call in calls[verb]:
    subprocess.run([runtime, "--root", sys.argv[5], *call], check=True)
pid, status = os.waitpid(int(open("shim.pid").read()), 0)
print(pid == int(open("shim.pid").read()), os.waitstatus_to_exitcode(status))
try:
    os.wait()
    print("another child")
except ChildProcessError:
    print("no other child")
"""


@drills(
    "a subreaper that calls create, or run --detach, adopts the container's process and "
    "nothing else"
)
def subreaper(r):
    seen = []
    for verb in ["create", "run"]:
        b = r.bundle("adopted", ["/bin/sh", "-c", "/bin/sleep 0.3; exit 23"])
        seen.append(
            r.s.run("/usr/bin/python3", "-c", SHIM, r.s.path, b, "adopted", verb, r.root, cwd=b)
            .ok()
            .out
        )
        r.clean(b)
    expect(seen == ["True 23\nno other child\n"] * 2, seen)
    return seen


@drills("create and exec with stdin, stdout and stderr closed")
def create_closed(r):
    b = r.bundle(
        "shut", ["/bin/sh", "-c", "/bin/ls -l /proc/self/fd >/tmp/shut; exec /bin/sleep 1000"]
    )
    inner = r.rootfs / "tmp/shut-exec"
    for left in (r.rootfs / "tmp/shut", inner):
        left.unlink(missing_ok=True)
    closed = ["sh", "-c", '"$@" <&- >&- 2>&-', "-", r.s.path, "--root", str(r.root)]
    seen = [
        r.s.run(*closed, "create", "--bundle", b, "shut").code,
        r.call("start", "shut", bundle=b).code,
    ]
    script = "/bin/ls -l /proc/self/fd >/tmp/shut-exec; exit 5"
    seen.append(r.s.run(*closed, "exec", "shut", "/bin/sh", "-c", script).code)
    r.s.until("both listings", lambda: (r.rootfs / "tmp/shut").exists() and inner.exists())
    r.clean(b)
    expect(seen == [0, 0, 5], seen)
    return seen


@drills("run: stdin is a pipe that does not block, and its writer is slow")
def run_nonblocking_stdin(r):
    b = r.bundle("late", ["/usr/bin/md5sum"])
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    runner = subprocess.Popen(
        command(r, "late"),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=r.s.environment,
    )
    os.close(theirs)
    r.s.until("its start", lambda: "running" in r.call("list", bundle=b).out)
    time.sleep(0.3)
    with os.fdopen(ours, "wb") as writer:
        writer.write(b"late text\n" * 20000)
    out = runner.stdout.read().decode()
    status = runner.wait(60)
    runner.stdout.close()
    r.clean(b)
    return [status, out]


@drills("run: stdout is a pipe that does not block, and its reader is slow")
def run_nonblocking(r):
    b = r.bundle("slow", ["/usr/bin/seq", "1", "100000"])
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    runner = subprocess.Popen(
        command(r, "slow"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=r.s.environment,
    )
    os.close(theirs)
    time.sleep(0.5)
    with os.fdopen(ours) as reader:
        lines = reader.read().count("\n")
    status = runner.wait(60)
    said = runner.stderr.read().decode()
    runner.stderr.close()
    r.clean(b)
    expect(status == 0 and lines == 100000, status, lines, said)


def user_mapped(c):
    """Let the container have a user namespace with mapped ids."""
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    c["linux"].update(uidMappings=mapping, gidMappings=mapping)


# The namespaces of a pod that its containers join, and their files in /proc/PID/ns.
SHARED = {"user": "user", "network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
LOOK = (
    "/bin/cat /proc/self/uid_map; "
    "for n in user net ipc uts pid; do readlink /proc/self/ns/$n; done; "
    "/bin/cat /proc/1/cmdline | /usr/bin/tr '\\0' ' '; echo; /bin/show credentials; echo end; "
    "exec /bin/sleep 1000"
)


@drills(
    "a pod with a user namespace: its namespaces joined by path, as the CRI of containerd 2 does"
)
def joined(r):
    def pod(c):
        c["linux"]["namespaces"].append({"type": "user"})
        user_mapped(c)

    def member(c):
        paths = [{"type": k, "path": f"/proc/{pid}/ns/{f}"} for k, f in SHARED.items()]
        c["linux"]["namespaces"] = [*paths, {"type": "mount"}]
        user_mapped(c)
        c.pop("hostname")

    def output(b, name):
        return (b / name).read_text()

    if (r.s.scratch / "bundles").exists():
        os.chmod(r.s.scratch / "bundles", 0o755)
    a = r.running("pod", "/bin/pause", change=pod)
    pid = (a / "init.pid").read_text()
    b = r.running("member", "/bin/sh", "-c", LOOK, change=member)
    r.s.until("its output", lambda: "end\n" in output(b, "create.out"))
    out = output(b, "create.out")
    here = [os.readlink(f"/proc/{pid}/ns/{n}") for n in SHARED.values()]
    ran = r.exec(b, "/bin/sh", "-c", "readlink /proc/self/ns/user").ok()
    inner = r.s.until("exec's output", lambda: output(b, "exec.out"))
    r.call("kill", "--all", "member", "9", bundle=b)
    r.await_status(b, "stopped")
    expect(alive(int(pid)), "the pod died with its member")
    r.clean(b)
    r.clean(a)
    expect(out.splitlines()[1:6] == here and "pause" in out, out, here)
    expect(inner.strip() == here[0], inner)
    return ran.err, [line for line in out.splitlines() if line not in here]
