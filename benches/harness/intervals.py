"""Medians, and intervals that do not assume a distribution."""

import random
import statistics

RESAMPLES = 2000


def median(values):
    """The middle value; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def interval(values, of=median, level=0.95):
    """The bootstrap interval of `of` over `values`: the percentiles of resamples drawn with a fixed
    seed.
    """
    if len(values) < 2:
        return (float("nan"), float("nan"))
    draw = random.Random(1)
    found = sorted(of(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = (1 - level) / 2
    return (found[int(tail * RESAMPLES)], found[int((1 - tail) * RESAMPLES) - 1])


def paired_ratios(values, base):
    """Each value over the base of the same round; rounds in which one of the two failed are left
    out.
    """
    return [
        value / under
        for value, under in zip(values, base, strict=True)
        if value is not None and under
    ]
