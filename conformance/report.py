"""The table, on the terminal and in docs/results/conformance.md."""

from dataclasses import dataclass

PAGE = """# OCI runtime-tools: results

Written by `conformance/run --backend namespaces --backend vm --write-docs`;
[conformance.md](../conformance.md) explains the suite. `hull-vm` is hull's VM backend
([vm.md](../vm.md)), by emulation; `n/a` is a test that is not applicable in VM mode, and fails
there.

Of {total} tests pass: {passing}.

| test | {runtimes} | reason |
|---|{rules}---|
"""


@dataclass(frozen=True)
class Results:
    """The verdicts by runtime name and test, beside what was expected of each test."""

    tests: list
    runtimes: list
    verdicts: dict
    expected: dict

    def verdict(self, runtime, test):
        """The verdict on one test with one runtime."""
        return self.verdicts[runtime.name][test]

    def row(self, test):
        """A test's results, and the reasons of those that are not what one would wish."""
        line = self.expected[test]
        results, reasons = [], [line.reason]
        for runtime in self.runtimes:
            result = self.verdict(runtime, test).result
            if runtime.backend == "vm":
                result = "n/a" if (line.vm, result) == ("n/a", "fail") else result
                reasons.append(line.vm_reason)
            results.append(result)
        return [test, *results, "; ".join(filter(None, reasons))]

    def differences(self, judged):
        """(runtime, test) of every result of these runtimes that is not the expected one."""
        return [
            (runtime, test)
            for runtime in judged
            for test in self.tests
            if self.verdict(runtime, test).result != self.expected[test].result(runtime)
        ]


def table(results):
    """The table as aligned text: test | a column for each runtime | reason."""
    rows = [["test", *(runtime.name for runtime in results.runtimes), "reason"]]
    rows += [results.row(test) for test in results.tests]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    lines = ([c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(" | ".join(line).rstrip() for line in lines)


def print_differences(results, differing, suite):
    """Says of each unexpected result what it was and where its output is."""
    for runtime, test in differing:
        verdict = results.verdict(runtime, test)
        expected = results.expected[test].result(runtime)
        print(
            f"UNEXPECTED {runtime.name} {test}: {verdict.result}, expected {expected}"
            f" ({suite}/logs/{runtime.name}/{test}.log)\n    {verdict.detail}"
        )


def write_docs(path, results):
    """Writes the page with the table as it was just measured."""
    passing = {
        runtime.name: sum(results.verdict(runtime, t).result == "pass" for t in results.tests)
        for runtime in results.runtimes
    }
    head = PAGE.format(
        total=len(results.tests),
        passing=", ".join(f"{name} {count}" for name, count in passing.items()),
        runtimes=" | ".join(passing),
        rules="---|" * len(passing),
    )
    rows = ["| " + " | ".join(results.row(test)) + " |" for test in results.tests]
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
