"""What a job prints when it is done: what was found and what is estimated, as the head of the page says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def count_in_words(report: Mapping[str, Any]) -> str:
    """The count that was found and the estimated true number, of one class or of each; from ``report.json``.

    Examples
    --------
    >>> count_in_words({"class_name": "nuclei", "count": 44, "count_estimate": 65, "count_interval": (45, 86)})
    '44 nuclei found; estimated true number 65 (95 % interval 45 to 86)'
    """
    if "classes" in report:
        of_classes = ", ".join(
            f"{c['count']:,} {c['name']}{_bracketed(_number(c))}" for c in report["classes"]
        )
        return f"{report['count']:,} objects found: {of_classes}"
    number = _number(report)
    return f"{report['count']:,} {report['class_name']} found" + (f"; {number}" if number else "")


def area_in_words(report: Mapping[str, Any]) -> str:
    """The area that was found and the estimated true area in km2; empty without a CRS; from ``report.json``.

    Examples
    --------
    >>> area_in_words({"covered_km2": 7.28, "covered_estimate_km2": 7.19, "covered_interval_km2": (7.16, 7.21)})
    '7.28 km2 found; estimated true area 7.19 km2 (95 % interval 7.16 to 7.21)'
    """
    if report.get("covered_km2") is None:
        return ""
    text = f"{report['covered_km2']:,.4g} km2 found"
    if report.get("covered_interval_km2"):
        low, high = report["covered_interval_km2"]
        estimate = report["covered_estimate_km2"]
        text += f"; estimated true area {estimate:,.4g} km2 (95 % interval {low:,.4g} to {high:,.4g})"
    return text


def _number(counted: Mapping[str, Any]) -> str:
    if not counted.get("count_interval"):
        return ""
    low, high = counted["count_interval"]
    return f"estimated true number {counted['count_estimate']:,} (95 % interval {low:,} to {high:,})"


def _bracketed(text: str) -> str:
    return f" [{text}]" if text else ""
