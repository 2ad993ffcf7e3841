"""Runs and times commands from a small process of its own, in a mount namespace with the wanted
view of cgroups.
"""

import json
import os
import resource
import select
import signal
import socket
import time

from . import host

# A command that takes longer than this hangs, unless it is known to be slow.
COMMAND_LIMIT_SECONDS = 60

# Meant for the bench, which cleans up and then ends the timing processes; what they start gets the
# default back.
TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Worker:
    """A forked process that executes steps. `without_v2` hides the v2 tree of a hybrid host from
    it.
    """

    def __init__(self, scratch, without_v2=False):
        ours, theirs = socket.socketpair()
        self.errors = os.path.join(scratch.path, f"stderr-{'v1' if without_v2 else 'all'}")
        self.output = os.path.join(scratch.path, f"stdout-{'v1' if without_v2 else 'all'}")
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            try:
                self._serve(theirs, without_v2)
            finally:
                os._exit(0)
        theirs.close()
        self._channel = ours.makefile("rw")

    def perform(self, steps, keep_output=False, limit=COMMAND_LIMIT_SECONDS):
        """Executes steps, each `["run", argv...]` or `["wait", pid file]`; returns the measured
        result.

        The result has `seconds` (elapsed), `cpu` (s of user and system time of everything that was
        reaped), `status` (the first one that is not zero), and `error` (what stderr says when the
        status is not zero). A command that takes longer than `limit` seconds is killed and has
        status 124.
        """
        self._channel.write(
            json.dumps({"steps": steps, "keep": keep_output, "limit": limit}) + "\n"
        )
        self._channel.flush()
        line = self._channel.readline()
        if not line:
            raise host.BenchError("the timing process has died")
        return json.loads(line)

    def close(self):
        """Ends the process. It is told to: other workers hold copies of the channel, so it would
        see no end of file.
        """
        try:
            self._channel.write("null\n")
            self._channel.close()
        except BrokenPipeError:
            pass
        os.waitpid(self.pid, 0)

    def _serve(self, channel, without_v2):
        for number in TERMINAL_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        host.prctl(host.PR_SET_PDEATHSIG, signal.SIGKILL)
        # Containers are left to this process when `create` ends, so their end can be waited for
        # without polling.
        host.prctl(host.PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGALRM, _give_up)
        if without_v2:
            _hide_v2()
        stream = channel.makefile("rw")
        for line in stream:
            request = json.loads(line)
            if request is None:
                return
            try:
                result = self._measure(request)
            except (OSError, ValueError) as error:
                result = {
                    "seconds": 0,
                    "cpu": 0,
                    "status": 1,
                    "error": f"the bench itself: {error}",
                }
            stream.write(json.dumps(result) + "\n")
            stream.flush()

    def _measure(self, request):
        for path in (self.errors, self.output):
            with open(path, "w", encoding="ascii"):
                pass
        actions = self._redirections(request["keep"])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        status = 0
        for verb, *words in request["steps"]:
            status = (
                _run(words, actions, request["limit"])
                if verb == "run"
                else _wait(words[0], request["limit"])
            )
            if status != 0:
                break
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        _reap_orphans()
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {
            "seconds": seconds,
            "cpu": cpu,
            "status": status,
            "error": self._last_error() if status else "",
        }

    def _redirections(self, keep_output):
        output = self.output if keep_output else "/dev/null"
        return [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_APPEND, 0),
            (os.POSIX_SPAWN_OPEN, 2, self.errors, os.O_WRONLY | os.O_APPEND, 0),
        ]

    def _last_error(self):
        """The line that says what went wrong: the last that speaks of an error, else the last."""
        with open(self.errors, encoding="utf-8", errors="replace") as text:
            lines = [line.strip() for line in text if line.strip()]
        telling = [line for line in lines if "error" in line.lower()]
        return (telling or lines or ["nothing on stderr"])[-1]


class _Hang(Exception):
    pass


def _give_up(_signal, _frame):
    raise _Hang


def _reap(pid, limit):
    signal.alarm(limit)
    try:
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    except _Hang:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 124
    finally:
        signal.alarm(0)


def _reap_orphans():
    """What a command left behind and has ended since (this process is their subreaper)."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _run(argv, actions, limit):
    return _reap(
        os.posix_spawn(
            argv[0],
            argv,
            os.environ,
            file_actions=actions,
            setsigdef=[*TERMINAL_SIGNALS, signal.SIGPIPE],
        ),
        limit,
    )


def _wait(pid_file, limit):
    """Waits for the container's first process. It is this process's child after `create` has ended,
    unless the runtime leaves a process of its own between the two; then its end is seen, and its
    status is not.
    """
    with open(pid_file, encoding="ascii") as text:
        pid = int(text.read())
    try:
        return _reap(pid, limit)
    except ChildProcessError:
        return _await_stranger(pid, limit)


def _await_stranger(pid, limit):
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    ended, _, _ = select.select([pidfd], [], [], limit)
    os.close(pidfd)
    return 0 if ended else 124


def _hide_v2():
    """A view with v1 hierarchies only, for a runtime that refuses hybrid trees."""
    if host.LIBC.unshare(0x00020000) != 0:
        raise host.BenchError("unshare the mount namespace of the timing process")
    host.unmount(os.path.join(host.CGROUPS, "unified"))
