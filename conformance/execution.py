"""Runs one program of the suite on one runtime, and leaves nothing behind."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT_SECONDS = 180
# How much longer everything may take in an emulated machine.
PATIENCE = 5


@dataclass(frozen=True)
class Runtime:
    """A runtime under test. `view` is the cgroup tree it is shown (see box); `wall` is kernel or
    vm, and `environment` what it is told by variables.
    """

    name: str
    path: str
    view: str
    wall: str = "kernel"
    environment: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What a test program left: its exit status is None after a timeout."""

    status: int | None
    stdout: str
    stderr: str


def hierarchies():
    """The mount points of all cgroup hierarchies, v1 and v2."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        fields = [line.split() for line in mounts]
    return [pathlib.Path(f[1]) for f in fields if f[2] in ("cgroup", "cgroup2")]


@contextlib.contextmanager
def own_cgroup(name):
    """A cgroup of this name in every hierarchy, gone with all below at the end."""
    tops = [root / name for root in hierarchies()]
    try:
        for top in tops:
            top.mkdir()
            # A v1 cpuset starts empty, and an empty one takes no process.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (top.parent / "tasks").exists() and (top / file).exists():
                    (top / file).write_text((top.parent / file).read_text())
        yield
    finally:
        for top in tops:
            remove_cgroup(top)


def remove_cgroup(top):
    """Removes a cgroup and those below it; processes in it are dying already."""
    if not top.exists():
        return
    folders = [pathlib.Path(f) for f, _, _ in os.walk(top, topdown=False)]
    deadline = time.monotonic() + 10
    while folders:
        try:
            folders[0].rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        folders.pop(0)


def thaw(name):
    """Lets frozen processes run on: in a v1 freezer they could not even die."""
    for root in hierarchies():
        for state in (root / name).rglob("freezer.state"):
            with contextlib.suppress(OSError):
                state.write_text("THAWED")


_boxes = set()


def kill_boxes():
    """Ends every box now; the threads that wait for them clean up as always."""
    for box in list(_boxes):
        box.kill()


def run(test, runtime, suite):
    """Runs a test in its box and returns its Output."""
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="conformance-"))
    # Containers with a user namespace must reach their bundle below it.
    scratch.chmod(0o755)
    name = scratch.name
    try:
        with own_cgroup(name):
            return _run_box(name, test, runtime, suite, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_box(name, test, runtime, suite, scratch):
    command = [HERE / "box", name, runtime.view, suite, scratch, runtime.path, test]
    out, err = scratch / "stdout", scratch / "stderr"
    # To files, not pipes: a container left running holds them open.
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        box = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env=dict(os.environ, **runtime.environment),
        )
        limit = TIMEOUT_SECONDS * (PATIENCE if runtime.wall == "vm" else 1)
        _boxes.add(box)
        try:
            status = box.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            thaw(name)
            # unshare --kill-child: the whole process namespace goes with it.
            box.kill()
            box.wait()
            _boxes.discard(box)
    return Output(status, out.read_text(errors="replace"), err.read_text(errors="replace"))
