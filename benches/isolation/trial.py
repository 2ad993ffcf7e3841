"""One trial: four containers begin at the same instant, one of them perhaps with a stress beside
its server.
"""

import argparse
import os
import shutil
import subprocess
import time
from dataclasses import dataclass

from harness import bundle, host

CONTAINERS = 4
# Seconds from a trial's preparation to its start: enough for the slowest runtime to make four
# containers.
LEAD_SECONDS = 1.2
# Seconds that the containers get to end after the measured time; one that has not by then did not
# report.
GRACE_SECONDS = 8.0
MIB = 1 << 20
# What a careful administrator gives each container: these are the bench's "limits".
LIMITS = {
    "memory": {"limit": 256 * MIB},
    "pids": {"limit": 256},
    "cpu": {"shares": 1024, "quota": 100_000, "period": 100_000},
}
# The disk's part of the limits, bytes a second for reading and for writing.
DISK_RATE = 16 * MIB
# Caps around everything that runs without limits, so that a bomb cannot bring the host down.
CAP_PIDS = 2000
CAP_MEMORY_MOST = 4 << 30


class Answer:
    """What one container reported; `requests` is 0 when it did not report."""

    def __init__(self, line):
        fields = [int(word) for word in line.split()] if line else [0] * 6
        self.requests, self.good, self.p50_us, self.p99_us, self.max_us, self.busy_us = fields

    def share(self):
        """Good answers of all requests, or None if the container did not report."""
        return self.good / self.requests if self.requests else None


def cap_memory():
    """Bytes for the cap: a third of what the host has free, and no more than the constant."""
    with open("/proc/meminfo", encoding="ascii") as text:
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text}
    return min(CAP_MEMORY_MOST, values["MemAvailable"] // 3)


def disk_of(directory):
    """(major, minor) of the whole disk that holds a directory; None where there is none (overlay,
    tmpfs, btrfs).
    """
    device = os.stat(directory).st_dev
    node = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    if not os.path.exists(node):
        return None
    if os.path.exists(os.path.join(node, "partition")):
        with open(os.path.join(os.path.realpath(node), "../dev"), encoding="ascii") as text:
            return tuple(int(word) for word in text.read().split(":"))
    return os.major(device), os.minor(device)


def limits_for(directory):
    """The limits, with the throttle of the disk that holds a directory."""
    disk = disk_of(directory)
    if not disk:
        return LIMITS
    rate = [{"major": disk[0], "minor": disk[1], "rate": DISK_RATE}]
    return {**LIMITS, "blockIO": {"throttleReadBpsDevice": rate, "throttleWriteBpsDevice": rate}}


class Cap:
    """The cgroups around the containers: a cap on memory and processes, and priority over the
    host's other work.
    """

    def __init__(self, parent):
        self.parent = parent
        if host.is_pure_v2():
            self.cgroups = [host.CGROUPS + parent]
            settings = {"memory.max": cap_memory(), "pids.max": CAP_PIDS, "cpu.weight": 10000}
            self._make(self.cgroups[0], settings, delegate=True)
            return
        settings = {
            "memory": {"memory.limit_in_bytes": cap_memory()},
            "pids": {"pids.max": CAP_PIDS},
            "cpu": {"cpu.shares": 262144},
        }
        self.cgroups = [f"{host.CGROUPS}/{name}{parent}" for name in settings]
        for cgroup, files in zip(self.cgroups, settings.values(), strict=True):
            self._make(cgroup, files)

    @staticmethod
    def _make(cgroup, settings, delegate=False):
        if delegate:
            _write(os.path.join(host.CGROUPS, "cgroup.subtree_control"), "+memory +pids +cpu")
        os.makedirs(cgroup, exist_ok=True)
        for name, value in settings.items():
            _write(os.path.join(cgroup, name), str(value))
        if delegate:
            _write(os.path.join(cgroup, "cgroup.subtree_control"), "+memory +pids +cpu")

    def control_cgroups(self):
        """One cgroup in each tree for all four servers of the control."""
        found = [os.path.join(cgroup, "control") for cgroup in self.cgroups]
        for cgroup in found:
            os.makedirs(cgroup, exist_ok=True)
        return found


def _write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


@dataclass
class Runner:
    """Starts trials with one runtime, whose containers have data directories below `disk`. `how` is
    `limits`, `none` (no limits), or `control` (no containers at all).
    """

    runtime: str
    spec: dict
    rootfs: str
    scratch: host.Scratch
    disk: str
    cap: Cap
    options: argparse.Namespace

    def __post_init__(self):
        self.root, self.serial = self.scratch.directory("state"), 0
        self.prefix = []
        if os.path.basename(self.runtime) == "crun" and host.is_hybrid():
            self.prefix = [
                "unshare",
                "--mount",
                "sh",
                "-c",
                f'umount {host.CGROUPS}/unified; exec "$@"',
                "sh",
            ]

    def _arguments(self, program, stress, start, data):
        options = self.options
        return [
            program,
            stress,
            str(start),
            str(options.warm_ms),
            str(options.seconds * 1000),
            str(options.rate),
            str(options.tolerance_ms),
            data,
        ]

    def _prepare_data(self):
        """A directory for each container, made and removed between the measured times."""
        for number in range(CONTAINERS):
            directory = os.path.join(self.disk, str(number))
            shutil.rmtree(directory, ignore_errors=True)
            os.mkdir(directory)
        os.sync()

    def _contained(self, number, how, stress, start):
        """The command that runs container `number`, and its id."""
        name = f"{host.PREFIX}{os.getpid()}-{self.serial}-{number}"

        def change(config):
            config["mounts"].append(
                {
                    "destination": "/data",
                    "type": "bind",
                    "options": ["bind", "rw"],
                    "source": os.path.join(self.disk, str(number)),
                }
            )
            if how == "limits":
                config["linux"]["resources"].update(limits_for(self.disk))

        arguments = self._arguments("/bin/load", stress, start, "/data")
        directory = bundle.write_bundle(
            self.scratch.directory("bundles", str(number)),
            self.spec,
            self.rootfs,
            f"{self.cap.parent}/{number}",
            arguments,
            change,
        )
        return [
            *self.prefix,
            self.runtime,
            "--root",
            self.root,
            "run",
            "--bundle",
            directory,
            name,
        ], name

    def _uncontained(self, number, stress, start):
        """The same program in one cgroup with the other three; a pid namespace, so that all of it
        ends with it.
        """
        joins = "".join(
            f"echo 0 >{cgroup}/cgroup.procs && " for cgroup in self.cap.control_cgroups()
        )
        program = self._arguments(
            os.path.join(self.rootfs, "bin/load"),
            stress,
            start,
            os.path.join(self.disk, str(number)),
        )
        return [
            "sh",
            "-c",
            joins + 'exec unshare --pid --fork --kill-child "$@"',
            "sh",
            *program,
        ], None

    def run(self, how, stress):
        """One trial; returns the answers, the last one the (perhaps) misbehaving container's."""
        self.serial += 1
        self._prepare_data()
        host.settle()
        start = time.monotonic_ns() + int(LEAD_SECONDS * 1e9)
        started = []
        try:
            for number in range(CONTAINERS):
                own = stress if number == CONTAINERS - 1 else "none"
                command, name = (
                    self._uncontained(number, own, start)
                    if how == "control"
                    else self._contained(number, how, own, start)
                )
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                started.append((process, name))
            late = (time.monotonic_ns() - start) / 1e9
            if late > 0:
                raise host.BenchError(f"the containers took {LEAD_SECONDS + late:.1f} s to start")
            return self._collect(started, start)
        finally:
            self._end(started)

    def _collect(self, started, start):
        options = self.options
        end = start / 1e9 + options.warm_ms / 1000 + options.seconds + GRACE_SECONDS
        answers = []
        for number, (process, _) in enumerate(started):
            try:
                out, error = process.communicate(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                out, error = "", "did not end in time"
            if not out and number < CONTAINERS - 1:
                reason = error.strip() or "no reason given"
                raise host.BenchError(f"a well-behaved container did not report: {reason}")
            answers.append(Answer(out.strip()))
        return answers

    def _end(self, started):
        for process, name in started:
            if process.poll() is None and name:
                subprocess.run(
                    [*self.prefix, self.runtime, "--root", self.root, "delete", "--force", name],
                    capture_output=True,
                    check=False,
                )
            if process.poll() is None:
                process.kill()
            process.communicate()
