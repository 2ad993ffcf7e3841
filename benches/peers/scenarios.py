"""The three scenarios, each measured in rounds with a rotated order, and the system-call counts."""

import os
import subprocess
import sys
import time

from harness import host

# strace counts what a run happens to do; a signal or a retry adds a few. The least of three is the
# run's own need.
COUNT_REPEATS = 3
# Stepping costs some 30 microseconds an instruction on a virtual CPU: a few millions are all that
# is worth it.
STEPPING_LIMIT_SECONDS = 150


class Samples:
    """What was seen of one peer in one scenario: a value a round, None where the run failed."""

    def __init__(self, peer):
        self.peer, self.seconds, self.cpu, self.errors = peer, [], [], []

    def add(self, result):
        """Takes one result of the timing process."""
        good = result["status"] == 0
        self.seconds.append(result["seconds"] if good else None)
        self.cpu.append(result["cpu"] if good else None)
        if not good:
            self.errors.append(f"status {result['status']}: {result['error']}")

    def good(self, what="seconds"):
        """The values of the runs that succeeded."""
        return [value for value in getattr(self, what) if value is not None]


def measure(peers, steps_of, worker_of, rounds, title):
    """One warm-up and then `rounds` rounds: A B C, B C A, C A B, ...; the kernel settles before
    each run.
    """
    samples = [Samples(peer) for peer in peers]
    for peer in peers:
        host.settle()
        worker_of(peer).perform(steps_of(peer))
    for number in range(rounds):
        progress(f"{title}: round {number + 1} of {rounds}")
        for place in range(len(samples)):
            sample = samples[(place + number) % len(samples)]
            host.settle()
            sample.add(worker_of(sample.peer).perform(steps_of(sample.peer)))
    progress("")
    return samples


def progress(text):
    """One line that overwrites itself, only on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


class ExecTargets:
    """Running containers for the exec scenario: one of each runtime, and one of the floor's for the
    peers without.

    The floor's ends by itself after `seconds`, so that it cannot outlive a bench that was killed
    for long.
    """

    def __init__(self, peers, floor, worker_of, seconds):
        self.worker_of, self.held, self.pids, self.failed = worker_of, [], {}, {}
        self.floor_process = subprocess.Popen(
            floor.command("/bin/sleep", str(seconds)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self.floor_pid = self._child_of(self.floor_process.pid)
        for peer in peers:
            if not hasattr(peer, "hold_steps"):
                self.pids[peer.name] = self.floor_pid
                continue
            self.held.append(peer)
            result = worker_of(peer).perform(peer.hold_steps())
            if result["status"] == 0:
                self.pids[peer.name] = peer.held_pid()
            else:
                self.failed[peer.name] = result["error"]

    @staticmethod
    def _child_of(pid):
        """The container's first process, once it has become the program (its namespaces are
        complete then).
        """
        for _ in range(400):
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as text:
                children = text.read().split()
            if children and os.readlink(f"/proc/{children[0]}/exe").endswith("busybox"):
                return int(children[0])
            host.settle(0.02)
        raise host.BenchError("the floor's container did not start")

    def close(self):
        """Ends all of them."""
        self.floor_process.kill()
        self.floor_process.wait()
        if os.path.exists(f"/proc/{self.floor_pid}"):
            os.kill(self.floor_pid, 9)
        for peer in self.held:
            self.worker_of(peer).perform(peer.drop_steps())


def count_calls(worker, steps, strace, output):
    """System calls of all processes of a run, by `strace -c -f`: (total, [(calls, name), ...]) or
    None if it fails.

    The tracer is detached (`-D`): the container outlives `create`, and the tracer stays with it.
    """
    best = None
    for _ in range(COUNT_REPEATS):
        host.settle()
        counts = {}
        traced = []
        for number, (verb, *words) in enumerate(steps()):
            if verb == "run":
                words = [
                    strace,
                    "-D",
                    "-f",
                    "-c",
                    "-U",
                    "calls,name",
                    "-o",
                    f"{output}.{number}",
                    *words,
                ]
                traced.append(f"{output}.{number}")
            result = worker.perform([[verb, *words]])
            if result["status"] != 0:
                return None
        for path in traced:
            _await_counts(path)
            _read_counts(path, counts)
            os.remove(path)
        if best is None or sum(counts.values()) < sum(best.values()):
            best = counts
    return sum(best.values()), sorted(((calls, name) for name, calls in best.items()), reverse=True)


def _await_counts(path):
    """strace writes when the last process that it traces has ended, and ends itself after that."""
    for _ in range(250):
        if os.path.exists(path) and os.path.getsize(path):
            return
        time.sleep(0.02)
    raise host.BenchError(f"strace wrote no counts to {path}")


def _read_counts(path, counts):
    with open(path, encoding="ascii") as text:
        for line in text:
            words = line.split()
            if len(words) == 2 and words[0].isdigit() and words[1] != "total":
                counts[words[1]] = counts.get(words[1], 0) + int(words[0])


def count_instructions(worker, steps, tools, output):
    """User instructions of a run: the CPU's own count by `perf stat`, or else those that
    instructions/count.c steps through. Returns the count, or None, and how it was found or why not.
    """
    perf, stepper = tools
    command = steps()[0][1:]
    reason = "perf is not installed"
    if perf:
        worker.perform(
            [["run", perf, "stat", "-x", ",", "-e", "instructions:u", "-o", output, *command]]
        )
        with open(output, encoding="utf-8") as text:
            fields = next((line.split(",") for line in text if "instructions" in line), [""])
        if fields[0].isdigit():
            return int(fields[0]), "perf"
        reason = f"perf: {fields[0] or 'no count'}"
    result = worker.perform([["run", stepper, output, *command]], limit=STEPPING_LIMIT_SECONDS)
    if result["status"] == 124:
        return None, f"{reason}; not stepped through in {STEPPING_LIMIT_SECONDS} s"
    if result["status"] != 0:
        return None, f"{reason}; {result['error']}"
    with open(output, encoding="ascii") as text:
        return int(text.read()), f"{reason}; stepped through"


def mounts_of(worker, steps):
    """(path, type, ro or rw) of every mount in a container, or None if it does not run."""
    result = worker.perform(steps, keep_output=True)
    if result["status"] != 0:
        return None
    mounts = set()
    with open(worker.output, encoding="utf-8") as text:
        for line in text:
            left, right = line.split(" - ")
            fields = left.split()
            mounts.add((fields[4], right.split()[0], fields[5].split(",")[0]))
    return mounts
