"""Charts of the report: plain geometry, drawn as SVG by the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fewscope.pipeline.report.distributions import Histogram
from fewscope.pipeline.report.formatting import round_up, short
from fewscope.pipeline.report.seam_check import SeamCheck


def _ticks(top: float, n: int = 5, low: float = 0.0) -> list[float]:
    """Round numbers from `low` to at most `top`, about `n` of them."""
    raw = (top - low) / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    digits = 12 - math.floor(math.log10(step))  # of tiny steps, too
    return [round(i * step, digits) for i in range(first, math.floor(top / step + 1e-9) + 1)]


def _frame(width: int, height: int, left: int, right: int, top: int, base: float) -> dict[str, Any]:
    """Where a chart lies in its picture, as the macro of the axes takes it."""
    return {
        "width": width,
        "height": height,
        "left": left,
        "right": width - right,
        "base": base,
        "top": top,
    }


def chart(
    histogram: Histogram, width: int = 520, height: int = 240, marks: Sequence[float] = ()
) -> dict[str, Any]:
    """Bars, ticks, the median line and further marks of a histogram, in SVG units."""
    left, right, top, bottom = 52, 12, 22, 42
    begin, end, highest = histogram.edges[0], histogram.edges[-1], max(1, *histogram.counts)

    def x(value: float) -> float:
        return round(left + (value - begin) / (end - begin) * (width - left - right), 2)

    def y(value: float) -> float:
        return round(height - bottom - value / highest * (height - top - bottom), 2)

    bars = [
        (
            x(a),
            y(n),
            round(max(0.4, x(b) - x(a) - 0.8), 2),
            round(y(0) - y(n), 2),
            f"{short(a)} to {short(b)}",
            n,
        )
        for a, b, n in zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, strict=True)
    ]
    return {
        **_frame(width, height, left, right, top, y(0)),
        "bars": bars,
        "x_ticks": [(x(v), short(v)) for v in _ticks(end, low=begin)],
        "y_ticks": [(y(v), f"{v:,.0f}") for v in _ticks(highest, 4) if v == int(v)],
        "median": x(min(histogram.median, end)),
        "marks": [(x(v), short(v)) for v in marks],
    }


def seam_chart(
    seams: SeamCheck,
    mpp: float | None,
    per_area: Callable[[float], float],
    width: int = 520,
    height: int = 200,
) -> dict[str, Any]:
    """Density by distance from the nearest seam, in SVG units; points without tissue are left out.

    Parameters
    ----------
    per_area
        A density per megapixel in the unit that is shown.
    """
    left, right, top, bottom = 52, 12, 16, 42
    scale = mpp or 1.0
    end = seams.distance_px[-1] * scale
    step = seams.distance_px[0] * scale
    values = [None if d is None else per_area(d) for d in seams.density_per_mpx]
    highest = round_up(max([v for v in values if v], default=1.0))

    def x(value: float) -> float:
        return round(left + value / end * (width - left - right), 2)

    def y(value: float) -> float:
        return round(height - bottom - value / highest * (height - top - bottom), 2)

    points = [(x((i + 0.5) * step), y(v)) for i, v in enumerate(values) if v is not None]
    return {
        **_frame(width, height, left, right, top, y(0)),
        "points": points,
        "line": " ".join(f"{a},{b}" for a, b in points),
        "x_ticks": [(x(v), short(v)) for v in _ticks(end)],
        "y_ticks": [(y(v), short(v)) for v in _ticks(highest, 3)],
        "unit": "µm" if mpp else "px",
    }


@dataclass(frozen=True, slots=True)
class TimedCount:
    """Objects at a time: how many were found, the estimated true number, and its interval, if there are."""

    time: float
    count: int
    estimate: int | None
    interval: Sequence[int] | None


def time_chart(
    counts: Sequence[TimedCount], label: str, width: int = 720, height: int = 260
) -> dict[str, Any]:
    """Counts over time, in SVG units: a line of the estimates, a band of their intervals, points of what was found.

    Parameters
    ----------
    counts
        In the order of time; without an estimate, the line is of what was found.
    label
        Of the axis of time.
    """
    left, right, top, bottom = 62, 18, 16, 42
    start, end = counts[0].time, counts[-1].time
    most = max(max(one.count, one.estimate or 0, *(one.interval or (0,))) for one in counts)
    highest = round_up(float(max(1, most)))

    def x(value: float) -> float:
        return round(left + (value - start) / (end - start) * (width - left - right), 2)

    def y(value: float) -> float:
        return round(height - bottom - value / highest * (height - top - bottom), 2)

    line = [(x(one.time), y(one.count if one.estimate is None else one.estimate)) for one in counts]
    with_interval = [one for one in counts if one.interval is not None]
    upper = [(x(one.time), y((one.interval or (0, 0))[1])) for one in with_interval]
    lower = [(x(one.time), y((one.interval or (0, 0))[0])) for one in reversed(with_interval)]
    ticks = [start + one for one in _ticks(end - start, 8)]
    if label == "time point":
        ticks = [one for one in ticks if one == int(one)]
    return {
        **_frame(width, height, left, right, top, y(0)),
        "points": [(x(one.time), y(one.count), short(one.time), one.count) for one in counts],
        "line": " ".join(f"{a},{b}" for a, b in line),
        "band": " ".join(f"{a},{b}" for a, b in [*upper, *lower]),
        "has_estimate": any(one.estimate is not None for one in counts),
        "x_ticks": [(x(one), short(one)) for one in ticks],
        "y_ticks": [(y(one), f"{one:,.0f}") for one in _ticks(highest, 4) if one == int(one)],
        "label": label,
    }
