"""OCI bundles, and calls of a runtime with the very arguments that engines use. No engine is
involved.
"""

import array
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import image
from drill import expect

GRANTED = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"]
MASKED = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
MOUNTS = [
    ("/proc", "proc", "proc", []),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    ),
    ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
]


def config(root, cgroup, args, terminal=False):
    """The config that an engine would write for a container of no particular wishes."""
    process = {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "cwd": "/",
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "noNewPrivileges": True,
        "capabilities": dict.fromkeys(["bounding", "effective", "permitted"], GRANTED),
    }
    linux = {
        "cgroupsPath": cgroup,
        "maskedPaths": MASKED,
        "readonlyPaths": READONLY,
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in ["pid", "network", "ipc", "uts", "mount"]],
    }
    mounts = [{"destination": d, "type": t, "source": s, "options": o} for d, t, s, o in MOUNTS]
    return {
        "ociVersion": "1.0.2-dev",
        "process": process,
        "root": {"path": str(root)},
        "hostname": "drill",
        "mounts": mounts,
        "linux": linux,
    }


class Call:
    """How a call of the runtime ended, and what it logged: `log` is the text of its log file."""

    def __init__(self, code, out, err, log):
        self.code, self.out, self.err, self.log = code, out, err, log

    def ok(self):
        """This call, if it succeeded; otherwise the drill fails."""
        expect(self.code == 0, f"exit {self.code}: {self.err} {self.log}")
        return self

    def records(self):
        """The log as containerd reads it: JSON objects one after another."""
        return [json.loads(line) for line in self.log.splitlines()]

    def error(self):
        """What containerd shows its user: the message of the last record of level error."""
        said = [r["msg"] for r in self.records() if r["level"] == "error"]
        expect(said, f"no error in the log {self.log!r}; stderr {self.err!r}")
        return said[-1]

    def refused(self, *words):
        """The call failed, and its logged error holds one of `words` in this very spelling."""
        expect(self.code != 0, "it succeeded")
        said = self.error()
        expect(any(w in said for w in words), f"{said!r} has none of {words}")
        return self.code, [w for w in words if w in said]


class Runtime:
    """The runtime under test, with one root filesystem and many bundles."""

    def __init__(self, session):
        self.s = session
        self.root = session.scratch / "root"
        self.rootfs = session.scratch / "rootfs"
        image.unpack(self.rootfs)
        self.made = []

    def bundle(self, name, args=("/bin/sleep", "1000"), terminal=False, change=None):
        """Write the bundle `name`; `change` edits its config before."""
        directory = self.s.scratch / "bundles" / name
        directory.mkdir(parents=True, exist_ok=True)
        spec = config(self.rootfs, f"/{self.s.tag}/{name}", list(args), terminal)
        if change:
            change(spec)
        (directory / "config.json").write_text(json.dumps(spec))
        self.made.append(name)
        return directory

    def call(self, *argv, bundle, style="containerd", stdin=None, env=None, fds=(), inherited=()):
        """Call the runtime as an engine of that style does, from the bundle's directory.

        Output goes to files of the bundle, one a verb, as a container holds on to those of its
        `create`. `fds` are passed on with their numbers; `inherited` are signals that arrive
        ignored.
        """
        log = bundle / ("oci-log" if style == "conmon" else "log.json")
        front = {
            "containerd": ["--root", self.root, "--log", log, "--log-format", "json"],
            "conmon": ["--log-format=json", "--log", log],
            "buildah": [],
        }[style]
        whole = [self.s.path, *map(str, front), *map(str, argv)]
        self.s.note("$ " + " ".join(whole))
        before = log.read_text() if log.exists() else ""

        def ignore():
            return [signal.signal(number, signal.SIG_IGN) for number in inherited]

        verb = next((a for a in argv if a in ("create", "run", "exec")), "call")
        out, err = bundle / f"{verb}.out", bundle / f"{verb}.err"
        with open(out, "wb") as o, open(err, "wb") as e:
            process = subprocess.Popen(
                whole,
                cwd=bundle,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=o,
                stderr=e,
                pass_fds=fds,
                env={**self.s.environment, **(env or {})},
                preexec_fn=ignore,
                restore_signals=False,
            )
            try:
                process.communicate(stdin.encode() if stdin else None, timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"did not end: {whole}") from None
        logged = log.read_text()[len(before) :] if log.exists() else ""
        ended = Call(process.returncode, out.read_text(), err.read_text(), logged)
        self.s.note(f"  exit {ended.code}; out {ended.out!r}; err {ended.err!r}; log {ended.log!r}")
        return ended

    def create(self, bundle, *flags, style="containerd", **more):
        """`create` as containerd's shim and conmon call it."""
        files = ["--bundle", bundle, "--pid-file", bundle / "init.pid"]
        return self.call("create", *files, *flags, bundle.name, bundle=bundle, style=style, **more)

    def running(self, name, *args, **more):
        """A bundle whose container runs; returns its directory."""
        bundle = self.bundle(name, *([args] if args else []), **more)
        self.create(bundle).ok()
        self.call("start", name, bundle=bundle).ok()
        return bundle

    def stopped(self, name):
        """A bundle whose container has stopped; returns its directory."""
        bundle = self.running(name)
        self.call("kill", name, "9", bundle=bundle).ok()
        self.await_status(bundle, "stopped")
        return bundle

    def status(self, bundle):
        """The status of a container, as `state` prints it."""
        return json.loads(self.call("state", bundle.name, bundle=bundle).ok().out)["status"]

    def await_status(self, bundle, wanted):
        """Wait for a status."""
        self.s.until(f"{bundle.name} {wanted}", lambda: self.status(bundle) == wanted)

    def exec(self, bundle, *args, flags=(), process=None, style="containerd", **more):
        """`exec` with a process file, detached, as containerd's shim and conmon call it; returns
        the call and its output.
        """
        described = {
            **json.loads((bundle / "config.json").read_text())["process"],
            "args": list(args),
            **(process or {}),
        }
        (bundle / "process.json").write_text(json.dumps(described))
        (bundle / "exec.pid").unlink(missing_ok=True)
        pid_file = ["--pid-file", bundle / "exec.pid"]
        process_file = ["--process", bundle / "process.json"]
        if style == "conmon":
            argv = [*pid_file, *process_file, "--detach", *flags]
        else:
            argv = [*process_file, *flags, "--detach", *pid_file]
        return self.call("exec", *argv, bundle.name, bundle=bundle, style=style, **more)

    def clean(self, bundle, style="containerd"):
        """Delete a container whatever its state, and see that nothing is left."""
        self.call("delete", "--force", bundle.name, bundle=bundle, style=style)
        left = self.s.cgroups(f"/{self.s.tag}/{bundle.name}/")
        expect(not left, "cgroups left:", left)

    def clear(self):
        """Delete what a failed drill has left."""
        for name in dict.fromkeys(self.made):
            for style in ["containerd", "conmon"]:
                self.call(
                    "delete", "--force", name, bundle=self.s.scratch / "bundles" / name, style=style
                )

    def stop(self):
        """Nothing runs but containers, which the sandbox ends."""


class ConsoleSocket:
    """The socket on which an engine receives a container's terminal."""

    def __init__(self, directory):
        self.path = str(Path(directory) / "tty.sock")
        Path(self.path).unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.listener.settimeout(30)

    def terminal(self):
        """The descriptor of the pseudo-terminal's master side, and the name that came with it."""
        connection, _ = self.listener.accept()
        fds = array.array("i")
        name, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4 * fds.itemsize))
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        connection.close()
        self.listener.close()
        expect(len(fds) == 1, f"{len(fds)} descriptors came over the console socket")
        expect(os.isatty(fds[0]), "what came over the console socket is no terminal")
        return fds[0], name.decode(errors="replace")
