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
# How much longer everything may take in an emulated VM.
PATIENCE = 5


@dataclass(frozen=True)
class Runtime:
    """A runtime under test. `view` is the cgroup tree that it is shown (see box); `backend` is
    namespaces or vm; `environment` holds additional variables for it.
    """

    name: str
    path: str
    view: str
    backend: str = "namespaces"
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
    cgroups = [pathlib.Path(path) for path, _, _ in os.walk(top, topdown=False)]
    deadline = time.monotonic() + 10
    while cgroups:
        try:
            cgroups[0].rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        cgroups.pop(0)


def thaw(name):
    """Lets frozen processes run on: a v1 freezer would keep them from dying, too."""
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
    # The cgroup has the name of the scratch directory.
    cgroup = scratch.name
    command = [HERE / "box", cgroup, runtime.view, suite, scratch, runtime.path, test]
    try:
        with own_cgroup(cgroup):
            return _run_box(command, runtime, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_box(command, runtime, scratch):
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
        limit = TIMEOUT_SECONDS * (PATIENCE if runtime.backend == "vm" else 1)
        _boxes.add(box)
        try:
            status = box.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            thaw(scratch.name)
            # unshare --kill-child: the whole process namespace goes with it.
            box.kill()
            box.wait()
            _boxes.discard(box)
    return Output(status, out.read_text(errors="replace"), err.read_text(errors="replace"))
