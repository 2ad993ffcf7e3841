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
from session import alive, read_some

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
    os.dup2(ends[0], 3, inheritable=True) if ends[0] != 3 else None
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
    seen = []
    for verb in ["create", "exec"]:
        b = r.bundle("kept", ["/bin/sh", "-c", "/bin/cat <&3 >/tmp/from-3; /bin/sleep 100"])
        source = os.open(b / "config.json", os.O_RDONLY)
        os.dup2(source, 20)
        os.close(source)
        os.dup2(20, 3, inheritable=True)
        try:
            if verb == "create":
                r.create(b, "--preserve-fds", "1", fds=(3,), style="conmon").ok()
                r.call("start", "kept", bundle=b, style="conmon").ok()
            else:
                b = r.bundle("kept")
                r.create(b, style="conmon").ok()
                r.call("start", "kept", bundle=b, style="conmon").ok()
                r.exec(
                    b,
                    "/bin/sh",
                    "-c",
                    "/bin/cat <&3 >/tmp/from-3",
                    flags=["--preserve-fds", "1"],
                    fds=(3,),
                    style="conmon",
                ).ok()
            got = r.rootfs / "tmp/from-3"
            seen.append(
                r.s.until("content", lambda: got.exists() and '"ociVersion"' in got.read_text())
            )
        finally:
            os.close(3)
            os.close(20)
            r.clean(b, "conmon")
            (r.rootfs / "tmp/from-3").unlink(missing_ok=True)
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
    source = os.open(b / "config.json", os.O_RDONLY)
    os.dup2(source, 20)
    os.close(source)
    os.dup2(20, 3, inheritable=True)
    try:
        script = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        ran = r.s.run(
            "sh",
            "-c",
            script,
            "-",
            r.s.path,
            "--root",
            r.root,
            "run",
            "--bundle",
            b,
            "listen",
            pass_fds=(3,),
        ).ok()
    finally:
        os.close(3)
        os.close(20)
    r.clean(b)
    expect(ran.out.startswith("1 1\n"), ran.out)
    return ran.out


@drills("run: NOTIFY_SOCKET is offered to the container and READY=1 passed on")
def notify(r):
    b = r.bundle("notify", ["/bin/sh", "-c", "echo $NOTIFY_SOCKET >/tmp/notify; /bin/sleep 1000"])
    (r.rootfs / "tmp/notify").unlink(missing_ok=True)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(str(b / "notify.sock"))
        ours.settimeout(30)
        runner = r.s.start(
            r.s.path,
            "--root",
            r.root,
            "run",
            "--bundle",
            b,
            "--pid-file",
            b / "run.pid",
            "notify",
            log="notify.log",
            env={"NOTIFY_SOCKET": str(b / "notify.sock")},
        )
        at = r.s.until(
            "its start",
            lambda: (
                (r.rootfs / "tmp/notify").exists() and (r.rootfs / "tmp/notify").read_text().strip()
            ),
        )
        pid = (b / "run.pid").read_text()
        theirs.connect(f"/proc/{pid}/root{at}")  # as the container's own process would
        theirs.send(b"READY=1\n")
        said = ours.recv(4096).decode()
        os.kill(int(pid), signal.SIGKILL)
        runner.wait(30)
    r.clean(b)
    expect("READY=1" in said, said)
    return at


def command(r, name, *flags):
    """The arguments of `run` for a bundle, as a person types them."""
    return [
        r.s.path,
        "--root",
        str(r.root),
        "run",
        *flags,
        "--bundle",
        str(r.s.scratch / "bundles" / name),
        name,
    ]


@drills("run: a terminal, its size, its resizing, its settings afterwards")
def run_terminal(r):
    b = r.bundle("term", ["/bin/sh"], terminal=True)
    shell = [
        "sh",
        "-c",
        'before=$(stty -g); "$@"; status=$?; test "$before" = "$(stty -g)" && echo restored; exit $status',
        "-",
    ]
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
    numbers = [
        *(int(getattr(signal, "SIG" + n)) for n in names),
        40,
    ]  # a real-time one; Go's programs keep 32 to 34 for themselves
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
    running = alive(pid)
    parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    status = r.status(b)
    r.clean(b)
    expect(running and status == "running" and parent == 1, running, status, parent)
    return done.out, done.err


@drills("run: orphans of the container leave no zombies")
def run_zombies(r):
    script = "for i in 1 2 3 4 5; do (/bin/sleep 0.1 &); done; /bin/sleep 1; echo ready; exec /bin/sleep 1000"
    b = r.bundle(
        "zombies",
        ["/bin/sh", "-c", script],
        change=lambda c: c["linux"].update(
            namespaces=[n for n in c["linux"]["namespaces"] if n["type"] != "pid"]
        ),
    )
    log = r.s.work / "zombies.log"
    log.unlink(missing_ok=True)
    runner = r.s.start(*command(r, "zombies"), log="zombies.log")
    r.s.until("readiness", lambda: "ready" in log.read_text())

    def dead():
        return [p for p in Path("/proc").glob("[0-9]*") if parent_and_state(p) == (runner.pid, "Z")]

    left = dead()
    r.call("kill", "--all", "zombies", "9", bundle=b)
    status = runner.wait(30)
    r.clean(b)
    expect(not left, "zombies:", left)
    return status


def parent_and_state(folder):
    """(parent's id, state) of a process's folder in /proc; None for one that is gone."""
    try:
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[1]), fields[0]


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
for call in ([["create", "--bundle", bundle, "--pid-file", "shim.pid", name], ["start", name]] if verb == "create" else
             [["run", "--detach", "--bundle", bundle, "--pid-file", "shim.pid", name]]):
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
    "a subreaper that calls create, or run --detach, adopts the container's process and nothing else"
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
    seen.append(
        r.s.run(
            *closed,
            "exec",
            "shut",
            "/bin/sh",
            "-c",
            "/bin/ls -l /proc/self/fd >/tmp/shut-exec; exit 5",
        ).code
    )
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


@drills(
    "a pod with a user namespace: its namespaces joined by path, as the CRI of containerd 2 does"
)
def joined(r):
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    def pod(c):
        c["linux"]["namespaces"].append({"type": "user"})
        c["linux"].update(uidMappings=mapping, gidMappings=mapping)

    os.chmod(r.s.scratch / "bundles", 0o755) if (r.s.scratch / "bundles").exists() else None
    a = r.running("pod", "/bin/pause", change=pod)
    pid = (a / "init.pid").read_text()

    def member(c):
        c["linux"]["namespaces"] = [
            {"type": k, "path": f"/proc/{pid}/ns/{f}"}
            for k, f in [
                ("user", "user"),
                ("network", "net"),
                ("ipc", "ipc"),
                ("uts", "uts"),
                ("pid", "pid"),
            ]
        ] + [{"type": "mount"}]
        c["linux"].update(uidMappings=mapping, gidMappings=mapping)
        c.pop("hostname")

    script = (
        "/bin/cat /proc/self/uid_map; for n in user net ipc uts pid; do readlink /proc/self/ns/$n; done;"
        "/bin/cat /proc/1/cmdline | /usr/bin/tr '\\0' ' '; echo; /bin/show credentials; echo end; exec /bin/sleep 1000"
    )
    b = r.running("member", "/bin/sh", "-c", script, change=member)
    out = r.s.until(
        "its output",
        lambda: (lambda t: t if "end\n" in t else None)((b / "create.out").read_text()),
    )
    here = [os.readlink(f"/proc/{pid}/ns/{n}") for n in ["user", "net", "ipc", "uts", "pid"]]
    ran = r.exec(b, "/bin/sh", "-c", "readlink /proc/self/ns/user").ok()
    inner = r.s.until("exec's output", lambda: (b / "exec.out").read_text())
    r.call("kill", "--all", "member", "9", bundle=b)
    r.await_status(b, "stopped")
    expect(alive(int(pid)), "the pod died with its member")
    r.clean(b)
    r.clean(a)
    expect(
        out.splitlines()[1:6] == here and inner.strip() == here[0] and "pause" in out,
        out,
        here,
        inner,
    )
    return ran.err, [line for line in out.splitlines() if line not in here]
