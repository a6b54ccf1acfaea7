"""The report as a page and as JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fewscope.connectors.source import FINEST_OF_LIGHT
from fewscope.pipeline.report.charts import chart, seam_chart
from fewscope.pipeline.report.content import Report
from fewscope.pipeline.report.drawing import Picture, colour_map
from fewscope.pipeline.report.figures import Pictures
from fewscope.pipeline.report.formatting import percent, seconds, short
from fewscope.pipeline.report.graded_fields import GRADE_COLOURS
from fewscope.pipeline.report.html import fill, write_files

# The page


def write_report(out: str, report: Report, pictures: Pictures) -> str:
    """Write ``report.html``, ``overview.jpg`` and ``report.json`` into `out`, a folder or an fsspec URL; the page's
    address.

    The JSON is written last and each file appears whole: where there is a ``report.json``, there is a page.
    """
    base = out.rstrip("/")
    # a file name may hold bytes that are no text: shown as question marks, and no reason to lose the report
    page = render(report, pictures).encode("utf-8", "replace")
    overview = base64.b64decode(pictures.overview.uri.partition(",")[2])
    files = {"report.html": page, "overview.jpg": overview, "report.json": report.to_json().encode("ascii")}
    write_files(base, files)
    return f"{base}/report.html"


def whole(number: float) -> str:
    """A number without decimals."""
    return f"{number:,.0f}"


def hundredths(number: float) -> str:
    """A number with two decimals, as IoUs are given."""
    return f"{number:.2f}"


FILTERS: dict[str, Callable[..., Any]] = {
    "whole": whole,
    "hundredths": hundredths,
    "short": short,
    "percent": percent,
    "seconds": seconds,
}
"""How the page writes numbers."""


def render(report: Report, pictures: Pictures) -> str:
    """The page as text."""
    ramp = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in colour_map()[::15].tolist()]
    return fill(
        "report.html.j2",
        FILTERS,
        r=report,
        p=pictures,
        show=Measures(report.metres_per_px * 1e6 if report.metres_per_px else report.mpp, report.kind),
        ground="tissue" if report.noun == "slide" else "area",
        ramp=ramp,
        chart=chart,
        grades=[
            (label, "#{:02x}{:02x}{:02x}".format(*colour))
            for label, colour in zip(("negative", "1+", "2+", "3+"), GRADE_COLOURS, strict=True)
        ],
        seam_chart=seam_chart,
    )


@dataclass(frozen=True, slots=True)
class Measures:
    """Pixels in words: from nanometres to kilometres where the resolution is known, pixels where not.

    >>> fine = Measures(0.004)
    >>> fine.length(20), fine.area(500), fine.density(30), fine.density_unit
    ('80 nm', '8,000 nm²', '1.88', 'per µm²')
    >>> fine.area(500, like=50_000), fine.area(50_000)
    ('0.008 µm²', '0.8 µm²')
    >>> Measures(0.5).area(0)
    '0 µm²'
    """

    mpp: float | None
    kind: str = "slide"

    def length(self, px: float) -> str:
        if not self.mpp:
            return f"{short(px)} px"
        um = px * self.mpp
        if um >= 1e6:
            return f"{short(um / 1e9)} km" if um >= 1e9 else f"{short(um / 1e6)} m"
        if 0 < um < 0.1:
            return f"{short(um * 1000)} nm"
        return f"{short(um / 1000)} mm" if um >= 1000 else f"{short(um)} µm"

    def area(self, px: float, like: float | None = None) -> str:
        """An area in the unit that suits it, or that suits another one: both ends of a range have one unit."""
        unit, size = self._unit_of_area(px if like is None else like)
        return f"{short(px / size)} {unit}"

    def _unit_of_area(self, px: float) -> tuple[str, float]:
        """The unit that suits an area, and its px."""
        if not self.mpp:
            return ("Mpx", 1e6) if px >= 1e5 else ("px", 1.0)
        um2 = px * self.mpp**2
        if um2 >= 1e12:
            unit, size = ("km²", 1e18) if um2 >= 1e17 else ("m²", 1e12)
        elif 0 < um2 < 0.01:
            unit, size = "nm²", 1e-6
        else:
            unit, size = ("mm²", 1e6) if um2 >= 1e4 else ("µm²", 1.0)
        return unit, size / self.mpp**2

    @property
    def is_ultrastructure(self) -> bool:
        """Whether only an electron microscope resolves as much: fields are a few µm wide."""
        return self.kind == "slide" and self.mpp is not None and self.mpp < FINEST_OF_LIGHT

    def per_area(self, per_mpx: float) -> float:
        """A density in the unit that `density_unit` names."""
        if not self.mpp:
            return per_mpx
        per_mm2 = per_mpx / self.mpp**2
        if self.is_ultrastructure:
            return per_mm2 / 1e6
        return per_mm2 * 1e12 if self.kind == "raster" else per_mm2

    def density(self, per_mpx: float) -> str:
        return short(self.per_area(per_mpx))

    @property
    def density_unit(self) -> str:
        if not self.mpp:
            return "per megapixel"
        if self.is_ultrastructure:
            return "per µm²"
        return "per mm²" if self.kind == "slide" else "per km²"

    def bar(self, picture: Picture, share: float = 0.22) -> dict[str, Any]:
        """A scale bar of a round length, at most `share` of the picture's width: label, width in percent."""
        scale = self.mpp or 1.0
        aim = picture.span_px * scale * share
        power = 10.0 ** math.floor(math.log10(aim))
        length = max(step * power for step in (1, 2, 5) if step * power <= aim)
        return {
            "label": self.length(length / scale),
            "percent": round(100 * length / scale / picture.span_px, 3),
        }
