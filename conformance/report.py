"""The table, on the terminal and in docs/conformance.md."""


def cells(test, runtimes, verdicts, expected):
    """A test's results, and the reasons of those that are not what one would wish."""
    line = expected[test]
    results, reasons = [], [line.reason]
    for runtime in runtimes:
        result = verdicts[runtime.name][test].result
        if runtime.wall == "vm":
            result = "n/a" if (line.vm, result) == ("n/a", "fail") else result
            reasons.append(line.vm_reason)
        results.append(result)
    return [*results, "; ".join(filter(None, reasons))]


def table(tests, runtimes, verdicts, expected):
    """The table as aligned text: test | a column a runtime | reason."""
    rows = [["test", *verdicts, "reason"]]
    rows += [[t, *cells(t, runtimes, verdicts, expected)] for t in tests]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    return "\n".join(
        " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def differences(tests, runtimes, verdicts, expected):
    """(runtime, test) of every result that is not the expected one."""
    return [
        (r, t)
        for r in runtimes
        for t in tests
        if verdicts[r.name][t].result != expected[t].result(r)
    ]


def print_differences(differing, verdicts, expected, suite):
    """Says of each unexpected result what it was and where its output is."""
    for runtime, test in differing:
        verdict = verdicts[runtime.name][test]
        print(
            f"UNEXPECTED {runtime.name} {test}: {verdict.result},"
            f" expected {expected[test].result(runtime)}"
            f" ({suite}/logs/{runtime.name}/{test}.log)\n    {verdict.detail}"
        )


def write_docs(path, tests, runtimes, verdicts, expected):
    """Writes the page with the table as it was just measured."""
    passing = {n: sum(v[t].result == "pass" for t in tests) for n, v in verdicts.items()}
    lines = [
        "# Conformance",
        "",
        "The validation suite of OCI runtime-tools, run by `conformance/run --wall kernel --wall vm",
        "--write-docs`, which wrote this page. `conformance/NOTES.md` tells what the tests that others",
        "fail ask for. `hull-vm` is hull behind its second wall ([vm.md](vm.md)), where each container",
        "has an emulated machine; `n/a` is a test that says nothing of a machine, and fails there.",
        "",
        "Of {} tests pass: {}.".format(
            len(tests), ", ".join(f"{name} {count}" for name, count in passing.items())
        ),
        "",
        "| test | " + " | ".join(verdicts) + " | reason |",
        "|---|" + "---|" * len(verdicts) + "---|",
    ]
    for test in tests:
        row = [test, *cells(test, runtimes, verdicts, expected)]
        lines.append("| " + " | ".join(row) + " |")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
