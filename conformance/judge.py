"""Turns what a test program printed into a verdict."""

import json
import re
from dataclasses import dataclass

# These eight assert nothing: seven print an `error` in a YAML block when they
# fail, one says so by its exit status. With every other test, a run without an
# assertion has shown nothing.
SILENT_WHEN_GOOD = frozenset(
    [
        "hooks",
        "poststart",
        "poststart_fail",
        "poststop",
        "poststop_fail",
        "prestart",
        "prestart_fail",
        "process_rlimits_fail",
    ]
)

ASSERTION = re.compile(r"^(not )?ok\b(?P<rest>.*)$", re.MULTILINE)
PLAN = re.compile(r"^1\.\.(\d+)$", re.MULTILINE)
YAML_BLOCK = re.compile(r"^  ---\n(.*?)^  \.\.\.$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """`result` is pass or fail; `detail` is the first thing that went wrong."""

    result: str
    detail: str = ""


def judge(test, output):
    """The verdict on one run of `test`."""
    fault = _fault(test, output)
    return Verdict("fail", " ".join(fault.split())[:300]) if fault else Verdict("pass")


def _fault(test, output):
    if output.status is None:
        return "timeout"
    failed = [m for m in ASSERTION.finditer(output.stdout) if m[1] and "# TODO" not in m["rest"]]
    if failed:
        return failed[0][0] + _error_after(output.stdout, failed[0].end())
    if output.status != 0:
        return f"exit status {output.status}: {_last_lines(output.stderr)}"
    if test in SILENT_WHEN_GOOD:
        errors = [e for e in map(_error_of, YAML_BLOCK.findall(output.stdout)) if e]
        return errors[0] if errors else None
    return _incomplete(output.stdout)


def _incomplete(text):
    """A run whose assertions are none, or not as many as it announced."""
    seen = len(ASSERTION.findall(text))
    planned = sum(int(n) for n in PLAN.findall(text))
    if seen == 0:
        return "no assertion was made"
    return f"{planned} assertions planned, {seen} made" if seen != planned else None


def _error_of(block):
    """The `error` (and the runtime's own words) in a YAML block."""
    try:
        value = json.loads(block)
    except ValueError:
        return ""
    if not isinstance(value, dict):
        return ""
    return " | ".join(str(value[k]) for k in ("error", "stderr") if value.get(k))


def _error_after(text, position):
    match = YAML_BLOCK.match(text, position + 1)
    error = _error_of(match[1]) if match else ""
    return f": {error}" if error else ""


def _last_lines(text):
    lines = text.strip().splitlines()
    return " ".join(lines[-2:]) if lines else "(nothing on standard error)"
