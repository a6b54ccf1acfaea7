"""Sentences of the report: what was assumed, and what to beware of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline.calibration.expected_iou import NEARLY_NOTHING
from fewscope.pipeline.calibration.intervals import MUCH_WORSE, moved_estimate
from fewscope.pipeline.calibration.operating_point import OperatingPoint
from fewscope.pipeline.plan import Plan
from fewscope.pipeline.report.formatting import percent

MUCH_UNLIKE = 0.2
"""Fraction of ground unlike the patches from which the report warns: four times what is usual."""

ADJUSTED = {
    "colours": "The colours of this source differ from those of the patches: they were matched to the patches' for the "
    "network, channel by channel, in mean and spread of brightness.",
    "norms": "This source looks unlike the patches: half of the statistics that normalise the network's features were "
    "taken from the source.",
}
"""What `OperatingPoint.source` did, as the report says it."""

WHY_ADJUSTED = (
    " Without it, the network and the pixel classifier agreed much less on a sample of tiles than on held-out patches. "
    "Patches from this source make it unnecessary; --adapt 0 leaves it out."
)


def assumptions(plan: Plan, remedy: str = "") -> list[str]:
    """What was assumed of the support set, of the source's look and of coordinates, and what overrides it."""
    messages, (x, y) = list(plan.support.assumptions), plan.source.info.scan_origin
    if plan.area is not None:
        messages += [text for text in plan.area.assumptions if text not in messages]
    if remedy:
        messages.append(ADJUSTED[remedy] + WHY_ADJUSTED)
    if (x, y) != (0, 0) and plan.config.outlines != "none":
        if plan.config.geojson_origin == "scan":
            messages.append(
                f"The scanned area begins at x, y = {x}, {y} of the slide. Coordinates in instances.geojson.gz start "
                "there, as QuPath expects; x and y in instances.parquet start at the corner of the slide. "
                "--geojson-origin file: both start at the corner of the slide."
            )
        else:
            messages.append(
                f"Coordinates in instances.geojson.gz start at the corner of the slide, as asked for; QuPath, which "
                f"starts at the scanned area, shows the outlines shifted by {x}, {y} px."
            )
    return messages


def mixed_kinds(kinds: Sequence[str]) -> list[str]:
    """A note on processors of several kinds, if there were."""
    if len(kinds) < 2:
        return []
    return [
        f"Units were computed on {len(kinds)} kinds of processor ({', '.join(kinds)}): they round differently, so "
        "another run may differ in a few pixels. Only machines of one kind give the same bytes."
    ]


def hardly_found(
    support: SupportSet, covered: Sequence[float | None], n_dropped: int = 0, what: str = "slide"
) -> list[str]:
    """A note on each class that is not found, or hardly, although the patches show it.

    Parameters
    ----------
    support : SupportSet
        The labelled patches.
    covered : Sequence[float | None]
        Part of the analysed area that each class covers, 0 to 1; None where nothing was analysed.
    n_dropped : int
        Objects that were left out as too small.
    what : str
        "slide", "raster" or "folder": where it was looked for.
    """
    messages = []
    whole = support.labels_by_class[:, : support.n_dense or None]
    for name, of_class, found in zip(support.class_names, whole, covered, strict=True):
        labelled = (of_class == 1).sum() / max(1, (of_class != IGNORE_LABEL).sum())
        if found is None or not labelled or found >= NEARLY_NOTHING * labelled:
            continue
        of_patches = f"{percent(float(labelled))} of the ground labelled in the patches"
        message = (
            f"{name}: only {percent(found)} of the area analysed, but {of_patches}."
            if found
            else f"{name}: nothing was found, although it is {of_patches}."
        )
        message += (
            f" If this {what} shows more, it looks different from the patches: label a patch or two where it was "
            "missed, and run again."
        )
        if n_dropped and not found:
            message += f" {n_dropped:,} objects were left out as too small."
        messages.append(message)
    return messages


def notes(plan: Plan, operating_point: OperatingPoint) -> list[str]:
    """Warnings shown above all numbers."""
    messages = list(plan.area.notes) if plan.area else []
    what = plan.source.info.noun
    for name, point, expected in zip(
        plan.support.class_names, operating_point.classes, operating_point.expected, strict=True
    ):
        loo, of = point.loo, f"Class {name}: " if len(operating_point.classes) > 1 else ""
        if loo is None:
            messages.append(
                f"{of}The support set is too small to estimate the quality of this result (two patches with objects "
                "are needed)."
            )
        elif np.isfinite(loo.iou).any() and loo.mean_iou < 0.4:
            messages.append(
                f"{of}Held-out support patches are segmented with an IoU of only "
                f"{loo.mean_iou:.2f}: the numbers below are not reliable. More patches, or another --mpp, may help."
            )
        change = None if expected is None else expected.change
        if loo is not None and change is not None and change <= -MUCH_WORSE:
            messages.append(
                f"{of}The network is less sure of this {what} than of held-out patches. Estimated IoU: "
                f"{moved_estimate(loo.mean_iou, change):.2f} on the {what}, {loo.mean_iou:.2f} on these patches; the "
                "intervals are widened accordingly. Label "
                "a patch or two where the result is wrong, and run again."
            )
    unlike = operating_point.unlike
    if unlike is not None and unlike.fraction >= MUCH_UNLIKE:
        messages.append(
            f"{percent(unlike.fraction)} of what was looked at is unlike all patches: no label says whether it is "
            "right there. See the pictures under Unlike the patches."
        )
    has_glass = what == "slide"  # of all else everything is analysed, always
    if has_glass and plan.foreground.covers_all and plan.config.foreground == "auto":
        messages.append("Tissue and background could not be separated: everything was analysed.")
    return messages
