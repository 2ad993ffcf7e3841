#!/usr/bin/python3
"""Process 1 of a sandbox: one engine with one runtime, all its drills, the results as JSON.

`run` starts it with `unshare` in new mount, network, pid, uts and ipc namespaces. /etc, /var/lib,
/tmp, /var/tmp, /usr/bin and /usr/sbin get a throw-away overlay, /run is an empty tmpfs. Whatever
the engine does to links, mounts, processes and files is gone when this process ends; only cgroups
outlive it, and `run` removes those.
"""

import argparse
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from drill import Skip, normalised
from session import Fetched, Session

HERE = os.path.dirname(os.path.realpath(__file__))
WORK = "/run/work"
OVERLAID = ["/etc", "/var/lib", "/tmp", "/var/tmp", "/usr/bin", "/usr/sbin"]
INSTALLED = "/usr/bin/hull"  # where README's and the package's lines for engines look for it
CRIU = "/usr/sbin/criu"  # Debian's criu 3.17 does not start on kernels whose vDSO it cannot read


def default_signals():
    """Reset every signal to its default: Go's programs, runc among them, hand on an ignored 32 or
    33, which the C library keeps for itself and Python cannot reset.
    """
    rt_sigaction = {"x86_64": 13, "aarch64": 134}[os.uname().machine]
    for number in range(1, 65):
        # a struct of zeros: SIG_DFL
        ctypes.CDLL(None).syscall(rt_sigaction, number, bytes(32), None, 8)
    # these two are as Python has them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def mount(*arguments):
    """Mount by the mount program, whose errors are readable."""
    subprocess.run(["mount", *arguments], check=True)


def install(program, at):
    """Make `at` a link to the program, if that is another file."""
    if program != at:
        if os.path.lexists(at):
            os.unlink(at)
        os.symlink(program, at)


def isolate(work, path, criu, v1_only):
    """Make this mount and network namespace the drills' own; the directory `work` stays shared
    with the driver.

    The runtime under test, at `path`, is installed under hull's name, and the criu that was
    fetched, if any, in the place of the system's.
    """
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for directory in ["/run/lock", "/run/t", "/run/netns", "/run/overlays", WORK]:
        os.makedirs(directory)
    mount("--bind", work, WORK)
    for at in OVERLAID:
        upper, scratch = (
            f"/run/overlays/{at[1:].replace('/', '-')}-{part}" for part in ("upper", "work")
        )
        os.makedirs(upper)
        os.makedirs(scratch)
        os.chmod(upper, os.stat(at).st_mode & 0o7777)
        layers = f"lowerdir={at},upperdir={upper},workdir={scratch}"
        mount("-t", "overlay", "-o", layers, "overlay", at)
    install(path, INSTALLED)
    if os.path.exists(criu):
        install(os.path.realpath(criu), CRIU)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if v1_only:
        show_v1_only()
    mount("--make-rshared", "/")  # as systemd has it, in a peer group of this namespace alone


def show_v1_only():
    """Mount the v1 hierarchies on a new /sys/fs/cgroup, without the v2 tree: Debian's crun refuses
    a hybrid one.
    """
    with open("/proc/mounts") as mounts:
        found = [line.split()[1:3] for line in mounts]
    kept = [at for at, kind in found if kind == "cgroup"]
    if not kept:
        return
    os.mkdir("/run/cgroup")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run/cgroup")
    for at in kept:
        new = f"/run/cgroup/{os.path.basename(at)}"
        os.mkdir(new)
        mount("--bind", at, new)
    subprocess.run(["umount", "--recursive", "/sys/fs/cgroup"], check=True)
    mount("--move", "/run/cgroup", "/sys/fs/cgroup")


def perform(drill, engine, session):
    """Run one drill; the result is a dictionary with `status`, and `seen`, `why`, `transcript` as
    they apply.
    """
    session.transcript.clear()
    try:
        seen = drill.function(engine)
        seen = normalised(json.loads(json.dumps(seen)), session.runtime, session.path, session.tag)
        return {
            "status": "pass",
            "seen": seen,
            "compared": drill.compared,
            "transcript": list(session.transcript),
        }
    except Skip as skip:
        return {"status": "skip", "why": str(skip)}
    except Exception as error:
        # a page does not show where the drills lie
        said = (
            str(error)
            if isinstance(error, AssertionError)
            else traceback.format_exc(limit=-3).replace(f"{HERE}/", "")
        )
        return {
            "status": "fail",
            "why": said or repr(error),
            "lacking": drill.lacking,
            "transcript": list(session.transcript),
        }


def work(options):
    """Start the engine, run its drills, stop it. Writes the results after each drill, so that a
    hang loses one only.
    """
    module = importlib.import_module(options.engine.replace("-", "_"))
    fetched = Fetched(options.newer, options.criu, options.kernel)
    session = Session(options.engine, options.runtime, INSTALLED, WORK, options.tag, fetched)
    results = {}

    def record(name, result):
        results[name] = result
        with open(f"{WORK}/results.json", "w") as out:
            json.dump(results, out)

    try:
        engine = module.start(session)
    except Skip as skip:
        record("the engine starts", {"status": "skip", "why": str(skip)})
        return
    except Exception:
        record(
            "the engine starts",
            {"status": "fail", "why": traceback.format_exc(), "transcript": session.transcript},
        )
        return
    record("the engine starts", {"status": "pass", "seen": None, "compared": False})
    for drill in module.drills:
        if options.only not in drill.name or (options.names and drill.name not in options.names):
            continue
        begun = time.monotonic()
        result = perform(drill, engine, session)
        result["seconds"] = round(time.monotonic() - begun, 1)
        record(drill.name, result)
        if result["status"] == "fail":
            engine.clear()
    engine.stop()


def main():
    parser = argparse.ArgumentParser()
    for name in ["engine", "runtime", "path", "work", "tag", "only"]:
        parser.add_argument("--" + name)
    for name in ["newer", "criu", "kernel"]:
        parser.add_argument("--" + name, type=Path)
    parser.add_argument("--names", type=json.loads, default=[])
    parser.add_argument("--v1-only", action="store_true")
    options = parser.parse_args()
    default_signals()
    isolate(options.work, options.path, options.criu / "criu", options.v1_only)
    worker = os.fork()
    if worker == 0:
        os.setsid()
        work(options)
        os._exit(0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ended = 0
    while ended != worker:  # orphans of the engine come to process 1
        ended, status = os.wait()
    if status != 0:
        sys.exit(f"the drills ended with wait status {status:#x}")


if __name__ == "__main__":
    main()
