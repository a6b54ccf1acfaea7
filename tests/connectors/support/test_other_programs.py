"""Annotations of ImageScope, ASAP, NDP.view and ImageJ: the same labels as of the same drawing in QuPath."""

from __future__ import annotations

import gzip
import io
import zipfile

import numpy as np
import pytest
import shapely
from affine import Affine
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from shapely.geometry import Polygon, box

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slides.openslide_source import _from_glass_nm
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.source import Source
from fewscope.connectors.support.load import is_annotations, load_support
from fewscope.connectors.support.several import load_several
from fewscope.connectors.support_options import SupportOptions
from tests.helpers import drawn_files
from tests.helpers.drawn_files import (
    REGION,
    SQUARE,
    annotation,
    asap_document,
    corners,
    file,
    freehand,
    ndpview_document,
    read,
    roi,
    roi_set,
    view,
)
from tests.helpers.rasters import north_up, write_raster
from tests.helpers.scanned_slides import write_hamamatsu, write_leica
from tests.helpers.support_folders import photo, refusal

CENTRE_NM = (2_345_678, -7_654_321)
PX_PER_CM = (20000, 22000)
FIVE = [(60, 60), (400, 80), (700, 90), (120, 480), (560, 470)]


def drawing(*, half: float = 0.0) -> list[tuple[str, Polygon]]:
    """Five regions, in each a triangle, a rectangle, an area to ignore, and an object of another class."""
    drawn = []
    for left, top in FIVE:
        at = np.array([left, top])
        drawn += [
            ("Region*", box(left, top, left + 200, top + 180)),
            ("Nucleus", Polygon(at + half + [(20, 20), (90, 31), (40, 77)])),
            ("Nucleus", box(left + 110, top + 20, left + 150, top + 60)),
            ("Vessel", box(left + 100, top + 100, left + 170, top + 150)),
            ("Ignore*", box(left + 10, top + 120, left + 60, top + 170)),
        ]
    return drawn


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> dict[str, Source]:
    """The same picture as a plain pyramid, of Hamamatsu's and of Leica's scanner."""
    folder = tmp_path_factory.mktemp("slides")
    image = photo(700, 1000)
    write_pyramid(folder / "a.tif", image, 0.5)
    write_hamamatsu(folder / "a.ndpi", image, CENTRE_NM, PX_PER_CM)
    write_leica(folder / "a.scn", image, (96, 64))
    opened = {name: open_source(str(folder / name), slide_mpp=0.5) for name in ("a.tif", "a.ndpi", "a.scn")}
    yield opened
    for source in opened.values():
        source.close()


@pytest.fixture
def slide(slides) -> Source:
    return slides["a.tif"]


def to_nm(width: int = 1000, height: int = 700) -> Affine:
    """From level-0 pixels of the Hamamatsu slide to nanometres, in steps that are easy to follow."""
    from_centre = Affine.translation(-width / 2, -height / 2)
    sizes = Affine.scale(1e7 / PX_PER_CM[0], 1e7 / PX_PER_CM[1])
    return Affine.translation(*CENTRE_NM) @ sizes @ from_centre


@pytest.mark.parametrize("half", [0.0, 0.3], ids=["whole", "parts-of-px"])
@pytest.mark.parametrize("name", ["imagescope.xml", "asap.xml", "RoiSet.zip"])
def test_the_same_drawing_is_the_same_support_set(tmp_path, slide, name, half):
    truth = load_support(drawn_files.write(tmp_path, "drawn.geojson", drawing(half=half)), source=slide)
    support = load_support(drawn_files.write(tmp_path, name, drawing(half=half)), source=slide)
    assert support.class_names == truth.class_names == ("Nucleus", "Vessel")
    assert len(support.names) == 5
    assert set(np.unique(support.labels)) == {0, 1, 2, 255}
    order = [int(np.argmin([np.abs(a.astype(int) - b).sum() for b in truth.images])) for a in support.images]
    assert sorted(order) == list(range(5))
    assert np.array_equal(support.labels, truth.labels[order])
    assert np.array_equal(support.instances > 0, truth.instances[order] > 0)
    assert all(
        len(np.unique(a)) == len(np.unique(truth.instances[k]))
        for a, k in zip(support.instances, order, strict=True)
    )
    assert support.notes == truth.notes == ()


def test_ndp_view_lies_where_it_was_drawn_from_the_centre_of_the_glass(tmp_path, slides):
    source = slides["a.ndpi"]
    truth = load_support(drawn_files.write(tmp_path, "drawn.geojson", drawing(half=0.3)), source=source)
    path = file(tmp_path, "a.ndpi.ndpa", drawn_files.ndpview(drawing(half=0.3), to_nm()))
    support = load_support(path, source=source)
    assert np.array_equal(support.labels, truth.labels)
    assert support.assumptions == ()
    coarse = open_source(source.info.uri, slide_mpp=0.5, mpp=1.0)
    assert np.array_equal(
        load_support(path, source=coarse).labels,
        load_support(str(tmp_path / "drawn.geojson"), source=coarse).labels,
    )
    coarse.close()


def test_ndp_view_on_a_slide_that_states_no_place_is_refused(tmp_path, slide):
    path = file(tmp_path, "a.ndpa", drawn_files.ndpview(drawing(), to_nm()))
    message = refusal(path, source=slide)
    assert "centre of the glass slide" in message
    assert slide.info.uri in message
    assert "\n" not in message


def test_the_content_decides_not_the_ending(tmp_path, slide):
    truth = load_support(drawn_files.write(tmp_path, "drawn.geojson", drawing()), source=slide)
    for name, content in (
        ("a.xml", drawn_files.qupath(drawing())),
        ("a.geojson", drawn_files.asap(drawing())),
        ("a.roi", drawn_files.imagej(drawing())),
        ("a.ndpa", drawn_files.imagescope(drawing())),
        ("b.xml.gz", gzip.compress(drawn_files.asap(drawing()))),
        ("c.xml", b"\xef\xbb\xbf" + drawn_files.imagescope(drawing())),
        ("d.xml", drawn_files.imagescope(drawing()).decode().encode("utf-16")),
    ):
        support = load_support(file(tmp_path, name, content), source=slide)
        assert (support.labels == 1).sum() == (truth.labels == 1).sum(), name


def test_names_of_files_that_are_annotations():
    assert all(
        map(is_annotations, ("a.xml", "A.XML", "s3://b/a.ndpi.ndpa", "a.roi", "RoiSet.zip", "a.xml.gz"))
    )
    assert not is_annotations("xml/")


@pytest.mark.parametrize(
    ("stated", "is_said"), [("0.51", False), ("0.25", True), ("x", False), ("nan", False)]
)
def test_a_file_of_imagescope_that_states_another_resolution_is_told(tmp_path, slide, stated, is_said):
    content = drawn_files.imagescope(drawing()).replace(b'"0.5"', f'"{stated}"'.encode())
    support = load_support(file(tmp_path, "a.xml", content), source=slide)
    assert len(support.assumptions) == is_said
    assert all("states 0.25 um per px, the slide has 0.5;" in text for text in support.assumptions)


def test_groups_types_and_order_of_asap(tmp_path, slide):
    content = asap_document(
        annotation("Region", corners(REGION), "Rectangle"),
        annotation("Tumor", corners(SQUARE), "Spline"),
        annotation("None", corners(SQUARE)),
        annotation("None", corners(SQUARE), name="Gland"),
        annotation("Tumor", np.array([(150.0, 150.0)]), "Dot"),
        annotation("Not*", np.array([(150.0, 150.0), (250.0, 250.0)]), "PointSet"),
        annotation("Tumor", corners(SQUARE)[:2], "Measurement"),
    )
    found = read(tmp_path, slide, "a.xml", content)
    assert [one.name for one in found.objects] == ["Tumor", "object", "Gland"]
    assert [one.stated for one in found.objects] == [True, False, True]
    assert all(one.geometry.equals(SQUARE) for one in found.objects)
    assert [one.geometry.geom_type for one in found.negatives] == ["MultiPoint"]
    assert [text.split(") ")[1] for text in found.left_out] == [
        "is a MultiPoint without an area",
        "is a measurement",
    ]
    assert "1 spline of ASAP" in found.assumptions[0]


def test_shapes_of_ndp_view(tmp_path, slides):
    x, y = to_nm() @ (200, 150)
    place = f"<x>{x:.0f}</x><y>{y:.0f}</y>"
    points = np.array([to_nm() @ point for point in corners(SQUARE).tolist()])
    content = ndpview_document(
        view("Nucleus", f'<annotation type="circle">{place}<radius>10000</radius></annotation>'),
        view("Nucleus", freehand(points, closed=0)),
        view("Nucleus", freehand(points, closed=0).replace("AnnotateFreehand", "AnnotateRectangle")),
        view("Annotation 3", freehand(points), details="a remark"),
        view("Not*", f'<annotation type="pin" displayname="AnnotatePin">{place}</annotation>'),
        view("Nucleus", f'<annotation type="pin">{place}</annotation>', details="sparse*"),
        view("Nucleus", '<annotation type="linearmeasure"><x1>1</x1></annotation>'),
        view("Nucleus", ""),
    )  # fmt: skip
    found = read(tmp_path, slides["a.ndpi"], "a.ndpa", content)
    round_one = found.objects[0].geometry
    assert round_one.area == pytest.approx(np.pi * 20 * 22, rel=1e-3)  # 10 um, at 0.5 and 0.4545 um per px
    assert round_one.centroid.distance(shapely.Point(200, 150)) < 0.01
    assert [one.name for one in found.objects] == ["Nucleus", "Nucleus", "object", "Nucleus"]
    assert found.objects[1].geometry.symmetric_difference(SQUARE).area < 1
    assert found.objects[3].mark == "sparse*"
    assert [one.geometry.geom_type for one in found.negatives] == ["Point"]
    assert [text.split(") ")[1] for text in found.left_out] == [
        "is a LineString without an area",
        "is a measurement",
        "is a view without an annotation",
    ]
    message = refusal(
        file(tmp_path, "px.ndpa", ndpview_document(view("a", "", unit="pixels"))), source=slides["a.ndpi"]
    )
    assert "'pixels'" in message


def test_shapes_of_imagej(tmp_path, slide):
    oval = ImagejRoi(roitype=ROI_TYPE.OVAL, left=140, top=140, right=180, bottom=200, name="Nucleus")
    fine = ImagejRoi(
        roitype=ROI_TYPE.OVAL, left=140, top=140, right=180, bottom=200, name="Nucleus-1",
        options=ROI_OPTIONS.SUB_PIXEL_RESOLUTION, xd=140.5, yd=140.5, widthd=20.0, heightd=10.0,
    )  # fmt: skip
    ring = np.array([v for shape in (SQUARE, box(150, 150, 160, 160)) for v in path(shape)], np.float32)
    composite = ImagejRoi(
        roitype=ROI_TYPE.RECT, left=140, top=140, right=180, bottom=200, name="Vessel",
        shape_roi_size=len(ring), multi_coordinates=ring,
    )  # fmt: skip
    points = ImagejRoi.frompoints([(150, 150), (250, 250)], name="Not*-3")
    points.roitype = ROI_TYPE.POINT
    text = ImagejRoi(
        roitype=ROI_TYPE.RECT,
        subtype=ROI_SUBTYPE.TEXT,
        name="Nucleus",
        right=3,
        bottom=3,
        text="a",
        version=228,
    )
    grouped = roi("0012-0345", SQUARE)
    grouped.group = 7
    content = roi_set(
        oval, fine, composite, points, text, roi("0012-0345", SQUARE), grouped, roi("CD3-2", SQUARE)
    )
    found = read(tmp_path, slide, "RoiSet.zip", content)
    assert [one.name for one in found.objects] == ["Nucleus", "Nucleus", "Vessel", "object", "group 7", "CD3"]
    assert [one.stated for one in found.objects] == [True, True, True, False, True, True]
    areas = [one.geometry.area for one in found.objects]
    assert areas[:3] == pytest.approx([np.pi * 20 * 30, np.pi * 10 * 5, 2300], rel=1e-3)
    assert found.objects[1].geometry.bounds == pytest.approx((140.5, 140.5, 160.5, 150.5))
    assert shapely.get_coordinates(found.negatives[0].geometry).tolist() == [[150.5, 150.5], [250.5, 250.5]]
    assert [text.split(") ")[1] for text in found.left_out] == ["is a text"]
    assert "which image they were drawn on" in found.assumptions[0]


def path(shape: Polygon) -> list[float]:
    """Operations of java.awt.geom.PathIterator."""
    points = corners(shape).tolist()
    return [0, *points[0], *(value for point in points[1:] for value in (1, *point)), 4]


def test_coordinates_start_at_the_corner_of_the_file_and_the_report_says_so(tmp_path, slides):
    shifted = [(name, shapely.affinity.translate(shape, 96, 64)) for name, shape in drawing()]
    support = load_support(drawn_files.write(tmp_path, "asap.xml", shifted), source=slides["a.scn"])
    truth = load_support(drawn_files.write(tmp_path, "drawn.geojson", drawing()), source=slides["a.scn"])
    assert np.array_equal(support.labels, truth.labels)
    (said,) = support.assumptions
    assert "as ASAP writes them" in said
    assert "x, y = 96, 64" in said


def test_files_of_two_programs_make_one_support_set(tmp_path, slide):
    first, second = (
        [one for one in drawing() if shapely.within(one[1], box(0, *rows))]
        for rows in ((0, 1000, 400), (400, 1000, 700))
    )
    uris = [drawn_files.write(tmp_path, "asap.xml", first), drawn_files.write(tmp_path, "RoiSet.zip", second)]
    support = load_several([(uri, slide) for uri in uris], SupportOptions())
    whole = load_support(drawn_files.write(tmp_path, "drawn.geojson", drawing()), source=slide)
    assert np.array_equal(support.labels, whole.labels)


NO_REGION = [("Nucleus", SQUARE)]
PROGRAMS = {"imagescope.xml": "in ImageScope", "asap.xml": "in ASAP", "RoiSet.zip": "in ImageJ"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_lacks_is_said_in_the_words_of_the_program(tmp_path, slide, name):
    objects_alone = load_support(drawn_files.write(tmp_path, name, NO_REGION), source=slide)
    assert "has no region" in objects_alone.notes[0]
    assert PROGRAMS[name] in objects_alone.notes[0]
    only_region = drawn_files.write(tmp_path, name, [("Region", REGION)])
    assert "has 1 region but no object" in refusal(only_region, source=slide)
    outside = drawn_files.write(tmp_path, name, [("Region", box(900, 600, 1200, 690)), ("Nucleus", SQUARE)])
    assert "out of the slide of 1000 x 700 px" in refusal(outside, source=slide)
    assert "no such file" in refusal(tmp_path / f"none-{name}", source=slide)
    empty = file(tmp_path, f"empty-{name}", b"")
    assert "is empty" in refusal(empty, source=slide)


def test_ndp_view_without_a_region(tmp_path, slides):
    path = file(tmp_path, "a.ndpa", drawn_files.ndpview(NO_REGION, to_nm()))
    assert "For better ones, in NDP.view" in load_support(path, source=slides["a.ndpi"]).notes[0]
    assert "has no region; in NDP.view" in refusal(
        file(tmp_path, "b.ndpa", b"<annotations/>"), source=slides["a.ndpi"]
    )


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a0 "lol">'
    + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
    + "]><Annotations>&a11;</Annotations>"
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]><Annotations><Annotation Name="&x;"/></Annotations>'
)
PARAMETER = '<!DOCTYPE a [<!ENTITY % p SYSTEM "file://{secret}"> %p;]><Annotations/>'


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, PARAMETER], ids=["bomb", "external", "parameter"])
def test_entities_are_refused(tmp_path, slide, text):
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    message = refusal(file(tmp_path, "a.xml", text.replace("{secret}", str(secret)).encode()), source=slide)
    assert "defines entities" in message
    assert "hidden" not in message


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xml", b"<kml><Document/></kml>", "begins with <kml>"),
        ("a.xml", b"<Annotations><Annotation>", "not XML that can be read"),
        ("a.xml", b'<?xml version="1.0" encoding="klingon"?><Annotations/>', "not XML that can be read"),
        ("a.xml", b"<Annotations/>", "has no region; in ImageScope"),
        ("a.xml", b"\x00\x01\x02\x03", "nor another file of annotations"),
        ("a.roi", b"Iout" + b"\0" * 10, "is not a ROI of ImageJ"),
        ("a.roi", b"Iout\x00\xe4\x00\x00" + b"\x7f" * 200, "is not a ROI of ImageJ"),
        ("a.zip", b"PK\x03\x04 and nothing else", "cannot be read"),
        ("a.xml", asap_document(annotation("a", corners(SQUARE))).replace(b'"140.000"', b'"14o"'), "'14o'"),
        ("a.xml", asap_document(annotation("a", corners(SQUARE))).replace(b'"140.000"', b'"1e999"'), "'1e999'"),
        ("a.xml", asap_document(annotation("a", corners(SQUARE))).replace(b' X="140.000"', b""), "expected a number"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_another_file_is_refused_in_one_line(tmp_path, slide, name, content, reason):
    message = refusal(file(tmp_path, name, content), source=slide)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 600


def test_archives_without_rois_and_with_damaged_ones(tmp_path, slide):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.shp", b"x")
    assert "without a ROI of ImageJ" in refusal(file(tmp_path, "a.zip", buffer.getvalue()), source=slide)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("Nucleus.roi", b"Iout")
    assert "'Nucleus.roi' in it is not a ROI" in refusal(
        file(tmp_path, "b.zip", buffer.getvalue()), source=slide
    )


def test_a_decimal_comma_is_a_number(tmp_path, slide):
    content = asap_document(annotation("Region", corners(REGION)), annotation("a", corners(SQUARE))).replace(
        b".000", b",000"
    )
    assert load_support(file(tmp_path, "a.xml", content), source=slide).class_names == ("a",)


def test_on_a_raster_they_are_refused_with_what_is_read(tmp_path):
    scene = write_raster(tmp_path / "a.tif", np.moveaxis(photo(300, 300), -1, 0), north_up())
    path = drawn_files.write(tmp_path, "asap.xml", drawing())
    assert "is read on slides only" in refusal(path, source=open_source(scene, raster=RasterOptions()))


def test_where_a_hamamatsu_slide_lies_is_known_only_if_it_says_all():
    whole = {
        "hamamatsu.XOffsetFromSlideCentre": "1000", "hamamatsu.YOffsetFromSlideCentre": "-2000",
        "openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5",
    }  # fmt: skip
    assert _from_glass_nm(whole, 100, 60) @ (1000 + 250, -2000) == pytest.approx((51, 30))
    assert _from_glass_nm(whole, 100, 60) @ (1000, -2000 - 500) == pytest.approx((50, 29))
    for name in whole:
        assert _from_glass_nm({k: v for k, v in whole.items() if k != name}, 100, 60) is None
        assert _from_glass_nm(whole | {name: "nan"}, 100, 60) is None
    assert _from_glass_nm(whole | {"openslide.mpp-x": "0"}, 100, 60) is None
