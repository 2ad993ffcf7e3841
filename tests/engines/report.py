"""Judging the drills and printing them: engine × operation × runtime."""

from drill import difference

MARK = {"pass": "pass", "differs": "differs", "fail": "FAIL", "skip": "skip", "absent": "-"}


class Row:
    """One drill of one engine with each runtime: its cells are (mark, explanation, transcript).

    `lacking` names the runtimes that are known to fail it.
    """

    def __init__(self, engine, name):
        self.engine, self.name, self.cells, self.lacking = engine, name, {}, []

    def mark(self, runtime):
        return self.cells.get(runtime, ("absent", "", []))[0]


def cell(result, reference):
    """Judge one result against runc's. A drill that passes with another outcome than runc's
    `differs`.
    """
    if result is None:
        return "absent", "the drill was not reached", []
    status, transcript = result["status"], result.get("transcript", [])
    if status == "pass" and result["compared"] and reference and reference["status"] == "pass":
        found = difference(result["seen"], reference["seen"])
        if found:
            return "differs", found, transcript
    return status, result.get("why", ""), transcript


def judge(table, runtimes):
    """The rows of all engines; `table` is engine -> runtime -> drill -> result."""
    rows = []
    for engine, by_runtime in table.items():
        names = list(dict.fromkeys(name for results in by_runtime.values() for name in results))
        for name in names:
            row = Row(engine, name)
            reference = by_runtime["runc"].get(name)
            for runtime in runtimes:
                result = by_runtime[runtime].get(name)
                row.cells[runtime] = cell(result, reference)
                row.lacking += (result or {}).get("lacking", [])
            rows.append(row)
    return runtimes, rows


def progress(engine, runtime, by_runtime):
    """One line when an engine is through with a runtime."""
    marks = [cell(r, by_runtime["runc"].get(n))[0] for n, r in by_runtime[runtime].items()]
    return f"{engine} with {runtime}: " + ", ".join(
        f"{marks.count(m)} {m}" for m in dict.fromkeys(marks)
    )


def table(verdict):
    """The table as text."""
    runtimes, rows = verdict
    wide = max([len(r.name) for r in rows] + [9])

    def line(engine, name, cells):
        return f"{engine:16} {name:{wide}} " + " ".join(f"{c:8}" for c in cells)

    out = [line("engine", "operation", runtimes)]
    out += [line(r.engine, r.name, [MARK[r.mark(n)] for n in runtimes]) for r in rows]
    return "\n".join(out)


def details(verdict, verbose):
    """Why each cell is not a pass."""
    runtimes, rows = verdict
    out = []
    for row in rows:
        for runtime in runtimes:
            mark, why, transcript = row.cells[runtime]
            if mark not in ("pass", "absent"):
                out.append(f"{mark}: {row.engine}: {row.name}: {runtime}: {why}")
                if mark != "skip" and verbose:
                    out += ["    " + line for line in transcript]
    return "\n".join(out)


def subject(verdict):
    """The runtime under test: hull; without it the harness itself is tested with runc."""
    return "hull" if "hull" in verdict[0] else "runc"


def outcome(verdict, row):
    """passed, failed or skipped for the runtime under test: it may fail only what its peers fail
    too.
    """
    tested = subject(verdict)
    mark = row.mark(tested)
    if mark == "pass":
        return "passed"
    if mark == "skip" or tested in row.lacking:
        return "skipped"
    peers = [row.mark(r) for r in verdict[0] if r != tested]
    if tested != "runc" and mark in ("fail", "absent") and "pass" not in peers:
        return "skipped"
    return "failed"


def failed(verdict):
    """The rows that make the run a failure; where runc fails, the drill itself is in doubt."""
    doubtful = [
        r for r in verdict[1] if r.mark("runc") in ("fail", "absent") and "runc" not in r.lacking
    ]
    return [r for r in verdict[1] if outcome(verdict, r) == "failed"] + doubtful


def summary(verdict):
    """The last line."""
    outcomes = [outcome(verdict, r) for r in verdict[1]]
    return (
        ", ".join(f"{outcomes.count(o)} {o}" for o in ["passed", "failed", "skipped"])
        + f" ({subject(verdict)})"
    )


REMARKS = {
    "vm": "hull's VM backend, each container in a VM (QEMU, emulated); the others have one backend."
}


def page(verdict, versions):
    """docs/results/engines.md."""
    runtimes, rows = verdict
    out = [
        "# Engine drills: results",
        "",
        "Written by `tests/engines/run --full --write-docs`; [engines.md](../engines.md) is about",
        "hull under engines. Each drill runs with runc and with the other runtimes beside it.",
        "`differs` means that the drill's assertions hold, but what it observed is not what it",
        "observed with runc.",
        "",
        "Versions (Debian): " + ", ".join(f"{n} {v}" for n, v in sorted(versions.items())) + ".",
        "",
    ]
    for engine in dict.fromkeys(r.engine for r in rows):
        out += [
            f"## {engine}",
            "",
            *([REMARKS[engine], ""] if engine in REMARKS else []),
            "| operation | " + " | ".join(runtimes) + " |",
            "|---|" + "---|" * len(runtimes),
        ]
        for row in (r for r in rows if r.engine == engine):
            out.append(f"| {row.name} | " + " | ".join(row.mark(n) for n in runtimes) + " |")
        out.append("")
    notes = [(r, n) for r in rows for n in runtimes if r.mark(n) in ("skip", "differs", "fail")]
    out += ["## Notes", ""]
    out += [
        f"- {r.engine}, {r.name}, {n}: {r.mark(n)}: {' '.join(r.cells[n][1].split())[:300]}"
        for r, n in notes
    ]
    return "\n".join(out) + "\n"
