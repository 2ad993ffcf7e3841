"""The command line of conformance/run, which see."""

import argparse
import concurrent.futures
import csv
import os
import pathlib
import signal
import subprocess
import sys
from dataclasses import dataclass

import execution
import judge
import report

import vm

HERE = pathlib.Path(__file__).resolve().parent
CHECKOUT = HERE.parent
HULL = CHECKOUT / "target/x86_64-unknown-linux-gnu/release/hull"


@dataclass(frozen=True)
class Expectation:
    """A line of expected.tsv: the results that hull and Debian's runc should have, and why. With
    the VM backend it is the same where `vm` is empty; `n/a` is a test that is not applicable in VM
    mode, and fails.
    """

    test: str
    hull: str
    runc: str
    reason: str
    vm: str
    vm_reason: str

    def result(self, runtime):
        """The result that a runtime should have: pass or fail."""
        if runtime.name == "runc":
            return self.runc
        if runtime.backend == "vm":
            return "fail" if self.vm == "n/a" else self.vm or self.hull
        return self.hull


def arguments():
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="conformance/run",
        description="Run the OCI runtime-tools validation suite on runc, to prove each test, "
        "and on the runtimes given; compare with conformance/expected.tsv.",
        epilog="The suite is fetched and built once, into .cache/conformance of the checkout, or "
        "$HULL_CACHE/conformance. Each test's output is kept there, in logs/. The exit status is 0 "
        "if every result is as expected, 1 if not, 2 if the suite could not run.",
    )
    parser.add_argument(
        "--runtime",
        metavar="PATH",
        action="append",
        help="a runtime to judge (default: hull, as built for release)",
    )
    parser.add_argument(
        "--with-crun",
        action="store_true",
        help="also show crun, in a view of this host with cgroup v1 alone",
    )
    parser.add_argument(
        "--backend",
        choices=["namespaces", "vm"],
        action="append",
        help="the backend with which hull runs the containers (default: namespaces); both may be "
        "given. In VMs, by emulation, the suite takes most of an hour",
    )
    parser.add_argument("--only", metavar="TEST", action="append", help="run this test only")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time (default: 2)")
    parser.add_argument(
        "--write-docs", action="store_true", help="write docs/results/conformance.md"
    )
    return parser.parse_args()


def expectations():
    """expected.tsv by test."""
    with open(HERE / "expected.tsv", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["test"]: Expectation(**row) for row in rows}


def columns(options, suite):
    """The runtimes to show, and those among them to judge."""
    peers = [execution.Runtime("runc", "/usr/sbin/runc", "hybrid")]
    if options.with_crun:
        peers.append(execution.Runtime("crun", "/usr/bin/crun", "v1"))
    judged = []
    backends = options.backend or ["namespaces"]
    for given in options.runtime or [HULL]:
        path = pathlib.Path(given).resolve()
        if not os.access(path, os.X_OK):
            sys.exit(f"conformance/run: no program at {path}")
        name = path.name
        # A second runc is a column of its own.
        name = f"{name}'" if name in [r.name for r in peers + judged] else name
        if "namespaces" in backends:
            view = "v1" if path.name == "crun" else "hybrid"
            judged.append(execution.Runtime(name, str(path), view))
        if "vm" in backends:
            judged.append(vm.runtime(path, suite))
    return peers, judged


def build_suite():
    """Builds the suite where that was not done, and returns its directory."""
    cache = pathlib.Path(os.environ.get("HULL_CACHE") or CHECKOUT / ".cache").resolve()
    suite = cache / "conformance"
    if subprocess.run([HERE / "build", suite], check=False).returncode != 0:
        sys.exit("conformance/run: the suite could not be built")
    return suite


def run_one(test, runtime, suite):
    """Runs and judges one test, and keeps its output."""
    output = execution.run(test, runtime, suite)
    log = suite / "logs" / runtime.name / f"{test}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(
        f"exit status: {output.status}\n--- stdout\n{output.stdout}--- stderr\n{output.stderr}",
        encoding="utf-8",
    )
    return judge.judge(test, output)


def run_all(tests, runtimes, suite, jobs):
    """All verdicts, by runtime name and test; runc goes first."""
    verdicts = {runtime.name: {} for runtime in runtimes}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            for runtime in runtimes:
                work = {t: pool.submit(run_one, t, runtime, suite) for t in tests}
                for test, future in work.items():
                    verdicts[runtime.name][test] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            execution.kill_boxes()
            raise
    return verdicts


def main():
    """Runs the suite; returns the exit status."""
    # A terminated run takes its boxes and cgroups down like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    options = arguments()
    suite = build_suite()
    peers, judged = columns(options, suite)
    expected = expectations()
    tests = sorted(program.name for program in (suite / "bin").iterdir())
    if set(tests) != set(expected):
        sys.exit(
            f"conformance/run: expected.tsv and the suite differ: {set(tests) ^ set(expected)}"
        )
    if options.only:
        tests = [t for t in tests if t in options.only]
    runtimes = peers + judged
    verdicts = run_all(tests, runtimes, suite, options.jobs)
    results = report.Results(tests, runtimes, verdicts, expected)
    print(report.table(results))
    if options.write_docs:
        report.write_docs(CHECKOUT / "docs/results/conformance.md", results)
    differing = results.differences(judged)
    report.print_differences(results, differing, suite)
    for test in tests:
        verdict = verdicts["runc"][test]
        if verdict.result != expected[test].runc:
            print(
                f"note: runc's {test} is not as it was when expected.tsv was written:"
                f" {verdict.result} {verdict.detail}"
            )
    total = len(tests) * len(judged)
    print(f"{total - len(differing)} passed, {len(differing)} failed")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
