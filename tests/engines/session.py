"""What a drill may use: commands with a transcript, daemons, terminals, cgroups, waiting for
something to be true.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import termios
import time
from dataclasses import dataclass
from pathlib import Path

from drill import expect

# A dialogue with a shell on a terminal of 24 rows and 80 columns: its size, its resizing, and 9 as
# its exit status. The first resizing may come before a client listens for it.
RESIZING = [
    (r"[#$] ", "test -t 0 && /bin/stty size; tty\n"),
    (r"24 80\s", None),
    (r"dev/pts/\d", (51, 133)),
    (r"[#$] ", "sleep 1; echo awa''ke\n"),
    (r"awake", (50, 132)),
    (r"[#$] ", 'until test "$(/bin/stty size)" = "50 132"; do sleep 0.2; done; echo resi""zed\n'),
    (r"resized", "exit 9\n"),
]


class Ran:
    """How a command ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def ok(self):
        """This result, if the command succeeded; otherwise the drill fails."""
        expect(self.code == 0, f"exit {self.code}: {self.err.strip() or self.out.strip()}")
        return self

    def seen(self):
        """The whole outcome as an observation."""
        return {"code": self.code, "out": self.out, "err": self.err}


PACKAGING = Path(__file__).resolve().parents[2] / "packaging"


def packaged(name):
    """The lines for an engine that README shows and the package brings."""
    return (PACKAGING / name).read_text()


@dataclass(frozen=True)
class Fetched:
    """Directories with what `run` fetched beside the system's own: containerd 2 with its runc, a
    criu that fits the kernel, and an unpacked kernel package.
    """

    newer: Path
    criu: Path
    kernel: Path


class Session:
    """One engine with one runtime in a sandbox of its own. `path` is where the runtime is
    installed, under hull's name.
    """

    def __init__(self, engine, runtime, path, work, tag, fetched):
        self.engine, self.runtime, self.path = engine, runtime, path
        self.work, self.tag, self.fetched = Path(work), tag, fetched
        self.scratch = Path("/run/t")
        self.transcript = []
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/run/t/home",
            "LANG": "C",
            "TERM": "xterm",
        }
        (self.scratch / "home").mkdir(parents=True, exist_ok=True)

    def note(self, line):
        """Add a line to the transcript that is shown when the drill fails."""
        self.transcript.append(line)

    def run(self, *argv, stdin=None, timeout=90, env=None, **popen):
        """Run a command to its end; text in, text out. The drill fails if it does not end."""
        argv = [str(a) for a in argv]
        fed = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        popen.setdefault("cwd", self.scratch)  # conmon leaves a file `oom` where it was started
        self.note("$ " + " ".join(argv))
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env={**self.environment, **(env or {})},
                **fed,
                **popen,
            )
        except subprocess.TimeoutExpired as expired:
            self.note(f"  did not end in {timeout} s: {expired.stdout!r} {expired.stderr!r}")
            raise AssertionError(f"did not end: {' '.join(argv)}") from None
        self.note(
            f"  exit {done.returncode}; out {done.stdout[-2000:]!r}; err {done.stderr[-2000:]!r}"
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *argv, log, env=None, **popen):
        """Start a daemon or a background command; `log` in the work directory takes its output."""
        self.note("$ " + " ".join(str(a) for a in argv) + " &")
        with open(self.work / log, "ab") as out:
            return subprocess.Popen(
                [str(a) for a in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**self.environment, **(env or {})},
                **popen,
            )

    def terminal(self, *argv, script, size=(24, 80), timeout=60, env=None):
        """Run a command on a terminal of its own and hold the dialogue `script`.

        The script is a list of (expected regular expression, answer); an answer is text to type, a
        (rows, columns) pair to resize the terminal to, or None. Returns the exit status and all
        that was printed.
        """
        argv = [str(a) for a in argv]
        self.note("$ " + " ".join(argv) + "  (terminal)")
        pid, fd = pty.fork()
        if pid == 0:
            resize(0, size)
            os.execvpe(argv[0], argv, {**self.environment, **(env or {})})
        shown, mark, end = "", 0, time.monotonic() + timeout
        try:
            for pattern, answer in [*script, (None, None)]:
                while pattern is None or not re.search(pattern, shown[mark:]):
                    data = read_some(fd, end)
                    if data is None and pattern is None:
                        break
                    expect(data is not None, f"the terminal ended before {pattern!r}: {shown!r}")
                    shown += data
                if pattern is not None:
                    mark += re.search(pattern, shown[mark:]).end()
                if isinstance(answer, tuple):
                    resize(fd, answer)
                elif answer is not None:
                    os.write(fd, answer.encode())
            status = wait_for(pid, end)
        finally:
            os.close(fd)
            self.note(f"  shown {shown[-2000:]!r}")
        return status, shown.replace("\r", "")

    def until(self, what, condition, timeout=30):
        """Wait until `condition()` is true, and return its value; the drill fails when it stays
        false.
        """
        end = time.monotonic() + timeout
        while True:
            value = condition()
            if value:
                return value
            expect(time.monotonic() < end, f"still waiting for {what} after {timeout} s")
            time.sleep(0.05)

    def state_roots_empty(self, *roots):
        """Fail the drill if a container is left in the runtime's state directories `roots`; no
        identifier begins with the @ of a cache.
        """
        left = [str(p) for root in roots for p in Path(root).glob("[!@]*") if p.is_dir()]
        expect(not left, "state left behind:", left)

    def no_cgroups_left(self, keep=lambda _: False):
        """Fail the drill if a cgroup is left below this sandbox's, but for those that `keep`
        chooses.
        """
        below = [at for at in self.cgroups(f"/{self.tag}/") if not at.endswith(self.tag)]
        left = [at for at in below if not keep(at)]
        expect(not left, "cgroups left:", left[:5])

    def gone(self, what, named):
        """Wait until no process is alive whose command line contains `named`."""
        self.until(f"{what}'s end", lambda: not living(named))

    def seccomp_profile(self):
        """The path of a seccomp profile that allows everything but mkdir."""
        path = self.scratch / "profile.json"
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
        path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
        os.chmod(path, 0o644)
        return path

    def cgroups(self, name):
        """All cgroups whose path contains `name`, in all hierarchies; a path ends with a slash
        here.
        """
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        roots = [m[1] for m in mounts if m[2] in ("cgroup", "cgroup2")]
        return [at for root in roots for at, _, _ in os.walk(root) if name in at[len(root) :] + "/"]


def split_command(argv):
    """The flags and the command of an argument list that separates them by "--"."""
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


@contextlib.contextmanager
def notify_socket(path):
    """A datagram socket at `path`, as systemd makes one for NOTIFY_SOCKET; every user may write."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(path))
        os.chmod(path, 0o777)
        ours.settimeout(20)
        yield ours


def until_ready(ours):
    """All that comes over a notify socket up to READY=1, or until nothing comes any more; a line
    for each message.
    """
    got = ""
    with contextlib.suppress(TimeoutError):
        while "READY=1" not in got:
            got += ours.recv(4096).decode() + "\n"
    return got


@contextlib.contextmanager
def descriptor_three(path):
    """The file `path` as descriptor 3, which a command inherits."""
    opened = os.open(path, os.O_RDONLY)
    os.dup2(opened, 20)
    os.close(opened)
    os.dup2(20, 3, inheritable=True)
    try:
        yield
    finally:
        os.close(3)
        os.close(20)


def resize(fd, size):
    """Set a terminal's window size, (rows, columns)."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))


def read_some(fd, end):
    """The next piece of a terminal's output; None at its end. Fails the drill at the time `end`."""
    ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
    expect(ready, "the terminal went silent")
    try:
        data = os.read(fd, 65536)
    except OSError:  # EIO: the far side is closed
        return None
    return data.decode(errors="replace") or None


def wait_for(pid, end):
    """A child's exit status in the shell's counting; a child that does not end is killed and fails
    the drill.
    """
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the command did not end with its terminal")


def stat_of(pid):
    """The fields of a process's /proc/PID/stat from the third, its state, on; None if there is no
    such process.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(pid):
    """Whether a process exists and is not a zombie."""
    fields = stat_of(pid)
    return fields is not None and fields[0] != "Z"


def parent(pid):
    """The id of a process's parent; None if there is no such process."""
    fields = stat_of(pid)
    return fields and int(fields[1])


def processes(named):
    """The ids of the processes whose command line contains `named`, in this sandbox."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            if named in words.decode(errors="replace"):
                found.append(int(entry.name))
    return found


def living(named):
    """Those of `processes` that are no zombies."""
    return [pid for pid in processes(named) if alive(pid)]


def load(text):
    """JSON from a command's output; fails the drill on anything else."""
    try:
        return json.loads(text)
    except ValueError:
        raise AssertionError(f"not JSON: {text[:300]!r}") from None


def answers(at):
    """Whether an HTTP server answers there."""
    try:
        with socket.create_connection(at, 2) as connection:
            connection.sendall(b"GET /group HTTP/1.0\r\n\r\n")
            return connection.recv(1000).startswith(b"HTTP/1.")
    except OSError:
        return False


def exec_cases(name):
    """Arguments of `exec` in a container of the test image, as Docker and Podman take them."""
    environment = ["--user", "user", "--workdir", "/tmp", "--env", "A=b"]
    return [
        [name, "/bin/sh", "-c", "echo o; echo e >&2; exit 5"],
        [name, "/nowhere"],
        [name, "nowhere"],
        [name, "/bin/not-executable"],
        [*environment, name, "/bin/sh", "-c", "id; pwd; echo $A"],
        ["--user", "1000:3000", name, "/bin/show", "credentials"],
        [name, "/bin/sh", "-c", "kill -9 $$"],
    ]
