"""Numbers in words and round steps, for people."""

from __future__ import annotations

import math

import numpy as np


def percent(share: float) -> str:
    """A share of 0..1 in percent; what is not nothing is never shown as 0 %."""
    if 0 < share < 0.0001:
        return "< 0.01%"
    return f"{short(share * 100)}%"


def seconds(value: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if value < 60:
        return f"{short(value)} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def round_up(value: float) -> float:
    """The next number at or above `value` of the form 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(
        next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))
    )


def short(value: float) -> str:
    """Three significant figures, no exponent, no idle zeros: 0.0123, 1.2, 45.6, 12,345."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
