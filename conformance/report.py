"""The table, on the terminal and in docs/conformance.md."""


def table(tests, verdicts, expected):
    """The table as aligned text: test | a column a runtime | reason."""
    rows = [["test", *verdicts, "reason"]]
    rows += [[t, *(v[t].result for v in verdicts.values()), expected[t].reason] for t in tests]
    widths = [max(map(len, column)) for column in zip(*rows)]
    widths[-1] = 0
    return "\n".join(" | ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


def differences(tests, names, verdicts, expected):
    """(runtime, test) of every result that is not the expected one."""
    return [(n, t) for n in names for t in tests if verdicts[n][t].result != expected[t].hull]


def print_differences(differing, verdicts, expected, suite):
    """Says of each unexpected result what it was and where its output is."""
    for name, test in differing:
        verdict = verdicts[name][test]
        print(f"UNEXPECTED {name} {test}: {verdict.result}, expected {expected[test].hull}"
              f" ({suite}/logs/{name}/{test}.log)\n    {verdict.detail}")


def write_docs(path, tests, verdicts, expected):
    """Writes the page with the table as it was just measured."""
    passing = {n: sum(v[t].result == "pass" for t in tests) for n, v in verdicts.items()}
    lines = [
        "# Conformance",
        "",
        "The validation suite of OCI runtime-tools, run by `conformance/run --write-docs`, which",
        "wrote this page. `conformance/NOTES.md` tells what the tests that others fail ask for.",
        "",
        "Of {} tests pass: {}.".format(
            len(tests), ", ".join(f"{name} {count}" for name, count in passing.items())),
        "",
        "| test | " + " | ".join(verdicts) + " | reason |",
        "|---|" + "---|" * len(verdicts) + "---|",
    ]
    for test in tests:
        cells = [v[test].result for v in verdicts.values()]
        lines.append(f"| {test} | " + " | ".join(cells) + f" | {expected[test].reason} |")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
