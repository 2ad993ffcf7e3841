"""The table for readers and the document for programs."""

from harness import intervals


def _milliseconds(value):
    return f"{value * 1000:8.2f}"


def row(sample, base, calls):
    """The figures of one peer in one scenario; `base` is the floor's samples, or None where the
    scenario has none.
    """
    good = sample.good()
    entry = {
        "peer": sample.peer.name,
        "runs": len(good),
        "failed": len(sample.errors),
        "errors": sample.errors[:3],
        "seconds": sample.seconds,
        "cpu_seconds": sample.cpu,
        "median_s": intervals.median(good),
        "min_s": min(good, default=float("nan")),
        "cpu_median_s": intervals.median(sample.good("cpu")),
    }
    if base:
        ratios = intervals.paired_ratios(sample.seconds, base.seconds)
        entry["times_floor"] = intervals.median(ratios)
        entry["times_floor_interval"] = intervals.interval(ratios)
        entry["cpu_times_floor"] = intervals.median(intervals.paired_ratios(sample.cpu, base.cpu))
    if calls:
        entry["system_calls"], entry["top_calls"] = calls
    return entry


def table(title, rows):
    """Lines of text for one scenario."""
    lines = [
        title,
        f"  {'':14}  {'median':>8}  {'least':>8}  {'x floor':>7}  {'95 % interval':>15}  "
        f"{'cpu':>8}  {'x floor':>7}  {'calls':>6}  failed",
    ]
    for entry in rows:
        ratio, span, cpu = f"{'-':>7}", f"{'-':>15}", f"{'-':>7}"
        if "times_floor" in entry:
            low, high = entry["times_floor_interval"]
            ratio, span = f"{entry['times_floor']:7.2f}", f"{f'{low:.2f} - {high:.2f}':>15}"
            cpu = f"{entry['cpu_times_floor']:7.2f}"
        calls = entry.get("system_calls", "-")
        lines.append(
            f"  {entry['peer']:14}  {_milliseconds(entry['median_s'])}  "
            f"{_milliseconds(entry['min_s'])}  {ratio}  {span}  "
            f"{_milliseconds(entry['cpu_median_s'])}  {cpu}  {calls:>6}  "
            f"{entry['failed']} of {entry['failed'] + entry['runs']}"
        )
        lines += [f"  {'':14}  {error}" for error in entry["errors"][:1]]
    return lines


def mounts_lines(found, base):
    """How far each container's mounts differ from the floor's, to judge the ratios by."""
    lines = ["mounts in the container, against the floor's"]
    for name, mounts in found.items():
        if mounts is None:
            lines.append(f"  {name:14}  does not run")
            continue
        more, less = sorted(mounts - base), sorted(base - mounts)
        words = "the same" if not more and not less else ""
        words += f"{len(more)} other: {_few(more)}" if more else ""
        words += f"{'; ' if more else ''}{len(less)} missing: {_few(less)}" if less else ""
        lines.append(f"  {name:14}  {len(mounts):3}  {words}")
    return lines


def _few(mounts):
    shown = ", ".join(f"{path} {kind} {access}" for path, kind, access in mounts[:3])
    return shown + (", ..." if len(mounts) > 3 else "")
