"""Drills: small named operations on an engine, and how two runs of one are compared.

A drill is a function of an engine. It asserts what must hold with any runtime (`expect`), and
returns an observation, any JSON value, which must be the same with runc and with the runtime under
test once volatile parts (ids, pids, paths) are replaced. `Skip` ends a drill that this host
cannot do, with its reason.
"""

import re


class Skip(Exception):
    """This host cannot do the drill; the text says why."""


class Drill:
    """One operation of one engine."""

    def __init__(self, name, function, compared, lacking):
        self.name = name
        self.function = function
        self.compared = compared
        self.lacking = list(lacking)


class Drills(list):
    """The operations of one engine, in the order in which they are declared and run."""

    def __call__(self, name, compared=True, lacking=()):
        """Declare the decorated function as the drill `name`.

        `compared=False` is for observations that may differ between runtimes; the assertions still
        count. `lacking` names runtimes that are known not to do this.
        """

        def add(function):
            self.append(Drill(name, function, compared, lacking))
            return function

        return add


def expect(condition, *said):
    """Fail the drill unless `condition` holds; `said` tells what was seen."""
    if not condition:
        raise AssertionError(" ".join(str(s) for s in said))


# What engines and their users look for in a runtime's error; the rest of a message is the runtime's
# own.
PHRASES = [
    "no such file or directory",
    "executable file not found in $path",
    "permission denied",
    "operation not permitted",
    "not a directory",
    "exec format error",
    "container not running",
    "no such process",
    "process already finished",
    "does not exist",
    "cannot exec in a stopped",
    "cannot exec in a paused",
    "unable to retrieve oci runtime error",
    "is not running",
    "is paused",
    "unknown user",
    "unable to find user",
    "no space left",
    "invalid argument",
]


def phrases(text):
    """The known phrases that an error text contains: the part of it that is an interface."""
    low = text.lower()
    return [p for p in PHRASES if p in low]


VOLATILE = [
    (re.compile(r"\b[0-9a-f]{64}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (
        re.compile(r"\b(pipe|socket|anon_inode|net|mnt|pid|ipc|uts|user|cgroup|time):\[[0-9]+\]"),
        r"\1:[N]",
    ),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d( \w+)?|Z)?"), "TIME"),
]


def normalised(value, runtime, path, tag):
    """`value` with ids, inode numbers, times, the run's tag and the runtime's names replaced, so
    that two runs compare.
    """
    if isinstance(value, str):
        value = value.replace(tag, "TAG")
        for pattern, instead in VOLATILE:
            value = pattern.sub(instead, value)
        return re.sub(
            rf"\b({re.escape(runtime)}|hull)\b", "RUNTIME", value.replace(path, "RUNTIME")
        )
    if isinstance(value, dict):
        return {k: normalised(v, runtime, path, tag) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [normalised(v, runtime, path, tag) for v in value]
    return value


def difference(ours, reference, where=""):
    """The first place where two observations differ, in words; None if they are the same."""
    if isinstance(ours, dict) and isinstance(reference, dict):
        for key in sorted(set(ours) | set(reference)):
            found = difference(ours.get(key), reference.get(key), f"{where}.{key}")
            if found:
                return found
        return None
    if isinstance(ours, list) and isinstance(reference, list) and len(ours) == len(reference):
        found = [
            difference(mine, theirs, f"{where}[{at}]")
            for at, (mine, theirs) in enumerate(zip(ours, reference, strict=True))
        ]
        return " ; ".join(f for f in found if f) or None
    if isinstance(ours, str) and isinstance(reference, str) and "\n" in ours + reference:
        mine, theirs = ours.splitlines(), reference.splitlines()
        only = [f"+{line}" for line in mine if line not in theirs] + [
            f"-{line}" for line in theirs if line not in mine
        ]
        if not only and mine != theirs:
            only = ["order of lines"]
        return f"{where}: {' | '.join(only)}" if only else None
    return None if ours == reference else f"{where}: {ours!r}, runc {reference!r}"
