"""A private view of the host that leaves nothing behind: mount namespace, scratch directory,
cgroups, quiet.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CGROUPS = "/sys/fs/cgroup"
PREFIX = "hull-bench-"


class BenchError(Exception):
    """A sentence for the user at the terminal."""


def enter_private_mounts():
    """Starts this program again in a mount namespace of its own, once; mounts made from here on end
    with it.
    """
    if os.environ.get("HULL_BENCH_MOUNTS") == str(os.getpid()):
        return
    if os.geteuid() != 0:
        raise BenchError("the benches need root: they make namespaces, mounts and cgroups")
    os.environ["HULL_BENCH_MOUNTS"] = str(os.getpid())
    os.execvp(
        "unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
    )


def unmount(path):
    """Detaches the mount on `path`; a path without one is left as it is."""
    LIBC.umount2(os.fsencode(path), MNT_DETACH)


def prctl(option, value):
    """One prctl(2) with an integer argument."""
    if LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise BenchError(f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def raise_priority(nice):
    """Asks for a higher priority than the host's other work has; returns what was obtained."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    return os.getpriority(os.PRIO_PROCESS, 0)


def find_program(name, given=None):
    """The absolute path of a program, or None. A given path without a program is an error."""
    if given:
        if not os.access(given, os.X_OK):
            raise BenchError(f"{name}: {given} is not an executable file")
        return os.path.abspath(given)
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def find_hull(root, given=None):
    """hull's release binary in the working tree, or the one given, or None."""
    if given:
        return find_program("hull", given)
    for directory in ("target/x86_64-unknown-linux-gnu/release", "target/release"):
        path = os.path.join(root, directory, "hull")
        if os.access(path, os.X_OK):
            return path
    return None


def version_of(path):
    """The first line of `PATH --version`; some programs say it on stderr."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


class Scratch:
    """A tmpfs in the private mount namespace: bundles, state and binaries of one run of a bench."""

    def __init__(self, size="256m"):
        self.path = f"/tmp/{PREFIX}{os.getpid()}"
        os.mkdir(self.path, 0o755)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", PREFIX + "scratch", self.path],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            os.rmdir(self.path)
            raise BenchError(f"mount tmpfs on {self.path}: {done.stderr.strip()}")

    def directory(self, *names):
        """A directory in the scratch, made if it is missing."""
        path = os.path.join(self.path, *names)
        os.makedirs(path, exist_ok=True)
        return path

    def remove(self):
        """Unmounts and removes it."""
        unmount(self.path)
        os.rmdir(self.path)


def cgroup_parent():
    """The cgroup, absolute in every hierarchy, below which this run's containers live."""
    return f"/{PREFIX}{os.getpid()}"


def hierarchies():
    """The mount points of all cgroup hierarchies."""
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        fields = [line.split(" - ") for line in lines]
    return [left.split()[4] for left, right in fields if right.split()[0] in ("cgroup", "cgroup2")]


def is_hybrid():
    """Whether the host has v1 hierarchies and a v2 tree."""
    return not is_pure_v2() and os.path.ismount(os.path.join(CGROUPS, "unified"))


def is_pure_v2():
    """Whether the host has the v2 tree alone."""
    return os.path.exists(os.path.join(CGROUPS, "cgroup.controllers"))


def end_on_signals():
    """Lets the first SIGINT, SIGTERM or SIGHUP end the program by an exception, so that clean-up
    runs undisturbed.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number, _frame):
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in numbers:
        signal.signal(number, end)


def _remove_cgroup(path):
    for child in [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]:
        _remove_cgroup(child)
    for _ in range(50):
        with open(os.path.join(path, "cgroup.procs"), encoding="ascii") as procs:
            pids = [int(pid) for pid in procs]
        for pid in pids:
            _kill(pid)
        try:
            os.rmdir(path)
            return
        except OSError:
            time.sleep(0.02)
    print(f"warning: cgroup {path} could not be removed", file=sys.stderr)


def _kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def remove_cgroups():
    """Removes this run's cgroups, and those of earlier runs that were killed."""
    for hierarchy in hierarchies():
        for name in os.listdir(hierarchy):
            owner = name.removeprefix(PREFIX)
            if name == owner or not owner.isdigit():
                continue
            if int(owner) == os.getpid() or not os.path.exists(f"/proc/{owner}"):
                _remove_cgroup(os.path.join(hierarchy, name))


def remove_stale_directories():
    """Removes the directories of runs that were killed: scratch (empty in all but the run's own
    mount namespace) and disk.
    """
    for parent in ("/tmp", "/var/tmp"):
        for name in os.listdir(parent):
            owner = name.removeprefix(PREFIX)
            if name != owner and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def _busy_kernel_workers():
    """Kernel threads that take down network namespaces or cgroups at this moment (a `+` marks
    running work).
    """
    busy = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as comm:
                name = comm.read().strip()
        except OSError:
            continue
        if name.startswith("kworker/") and ("+netns" in name or "+cgroup" in name):
            busy.append(name)
    return busy


def settle(limit=3.0):
    """Waits until the kernel has taken down what the last container left; returns whether it did
    within `limit` s.
    """
    end = time.monotonic() + limit
    quiet = 0
    while time.monotonic() < end:
        time.sleep(0.005)
        quiet = 0 if _busy_kernel_workers() else quiet + 1
        if quiet == 3:
            return True
    return False
