"""Support sets: read when their meaning is certain, refused by name when it is not."""

from __future__ import annotations

import gzip
import json

import fsspec
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.windows import Window

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import SupportError
from tests.helpers.support_folders import disc, photo, refusal, save_pair


def test_both_layouts_and_urls_hold_the_same(tmp_path):
    folders, flat = tmp_path / "folders", tmp_path / "flat"
    flat.mkdir()
    for k in (1, 2, 10):
        save_pair(folders, str(k), photo(seed=k))
        Image.fromarray(photo(seed=k)).save(flat / f"{k}.jpg", quality=95)
        Image.fromarray(disc() * 255).save(flat / f"{k}.png")
    (flat / "notes.txt").write_text("left out")
    Image.fromarray(disc()).save(flat / "alone.png")
    first, second = load_support(str(folders)), load_support(str(flat))
    assert first.names == ("1.png", "2.png", "10.png")  # by number, not by letter
    assert second.names == ("1.jpg", "2.jpg", "10.jpg")
    assert np.array_equal(first.images[2], photo(seed=10))
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.labels[0], disc())
    assert first.instances is None
    assert first.class_name == "folders"
    fsspec.filesystem("memory").put(str(folders), "/support", recursive=True)
    assert load_support("memory://support", class_names=["folders"]).digest() == first.digest()


def test_support_json_states_resolution_and_class(tmp_path):
    save_pair(tmp_path, "a")
    (tmp_path / "support.json").write_text('{"mpp": 0.5, "class": "nucleus"}')
    support = load_support(str(tmp_path))
    assert (support.mpp, support.class_name) == (0.5, "nucleus")
    assert load_support(str(tmp_path), class_names=["cell"]).class_name == "cell"
    for text in (
        '{"mpp": 500}',
        '{"mpp": "0.5"}',
        '{"mpp": true}',
        '{"MPP": 0.5}',
        "[1]",
        "{",
        '{"class": 3}',
    ):
        (tmp_path / "support.json").write_text(text)
        assert "support.json" in refusal(tmp_path), text


def palette(index, colours):
    picture = Image.fromarray(index, "L").convert("P")
    picture.putdata(index.ravel().tolist())
    picture.putpalette([level for colour in colours for level in colour])
    return picture


CERTAIN = {
    "0 and 1": lambda: disc(),
    "0 and 255": lambda: disc() * 255,
    "0 and another": lambda: disc() * 128,
    "16 bits, 0 and 1": lambda: disc().astype(np.uint16),
    "16 bits, 0 and 65535": lambda: disc().astype(np.uint16) * 65535,
    "one bit": lambda: Image.fromarray(disc().astype(bool)),
    "grey as RGB": lambda: np.repeat(disc()[..., None] * 255, 3, 2),
    "red on black": lambda: disc()[..., None] * np.array([255, 0, 0], np.uint8),
    "opaque alpha": lambda: np.dstack(
        [np.repeat(disc()[..., None] * 255, 3, 2), np.full((224, 224), 255, np.uint8)]
    ),
    "palette": lambda: palette(disc(), [(0, 0, 0), (255, 0, 0)]),
    "palette without black": lambda: palette(disc(), [(0, 0, 255), (255, 0, 0)]),
}


@pytest.mark.parametrize("make", CERTAIN.values(), ids=CERTAIN.keys())
@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
def test_masks_whose_meaning_is_certain(tmp_path, make):
    save_pair(tmp_path, "mask", mask=make())
    assert np.array_equal(load_support(str(tmp_path)).labels[0], disc())


def test_0_1_and_0_255_in_one_folder(tmp_path):
    save_pair(tmp_path, "a", mask=disc())
    save_pair(tmp_path, "b", mask=disc() * 255)
    labels = load_support(str(tmp_path)).labels
    assert np.array_equal(labels[0], labels[1])


UNCERTAIN = {
    "0, 1 and 255": (lambda: np.where(np.eye(224, dtype=bool), 255, disc()).astype(np.uint8), "0, 1, 255"),
    "object numbers": (lambda: disc() * np.arange(224, dtype=np.uint8), ".inst.png"),
    "two values, no 0": (lambda: disc() + 1, "1, 2"),
    "grey levels": (lambda: photo()[..., 0], "2"),
    "three colours": (lambda: photo() // 128 * 255, "colours"),
    "transparent": (lambda: np.dstack([photo(), disc() * 255]), "transparent"),
    "palette turned round": (lambda: palette(disc(), [(255, 255, 255), (0, 0, 0)]), "palette"),
    "floating point": (lambda: None, "whole numbers"),
}


@pytest.mark.parametrize(("make", "word"), UNCERTAIN.values(), ids=UNCERTAIN.keys())
@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
def test_masks_whose_meaning_is_not_certain_are_refused(tmp_path, make, word):
    mask = make()
    save_pair(tmp_path, "mask", mask=mask)
    if mask is None:
        (tmp_path / "label" / "mask.png").unlink()
        Image.fromarray(disc().astype(np.float32)).save(tmp_path / "label" / "mask.tif")
    said = refusal(tmp_path)
    assert "label/mask." in said
    assert word in said


def test_a_jpeg_mask_is_taken_only_without_grey(tmp_path):
    save_pair(tmp_path, "a")
    (tmp_path / "label" / "a.png").unlink()
    noise = np.random.default_rng(0).integers(0, 9, (224, 224))
    blocks = np.kron(np.eye(28, dtype=np.uint8), np.ones((8, 8), np.uint8))
    Image.fromarray((blocks * 240 + noise).astype(np.uint8)).save(tmp_path / "label" / "a.jpg", quality=95)
    assert np.array_equal(load_support(str(tmp_path)).labels[0], blocks)
    Image.fromarray(photo()[..., 0]).save(tmp_path / "label" / "a.jpg")
    assert "JPEG" in refusal(tmp_path)


def test_a_negative_patch_is_accepted_when_another_has_the_object(tmp_path):
    save_pair(tmp_path, "empty", mask=np.zeros((224, 224), np.uint8))
    assert "labelled as object" in refusal(tmp_path)
    save_pair(tmp_path, "full", mask=np.full((224, 224), 255, np.uint8))
    assert load_support(str(tmp_path)).labels.mean() == 0.5


def test_masks_that_are_all_full_are_refused(tmp_path):
    save_pair(tmp_path, "full", mask=np.full((224, 224), 255, np.uint8))
    assert "labelled as background" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: save_pair(f, "a", mask=disc(224, 200)), ["label/a.png", "224 x 200", "224 x 224"]),
        (lambda f: (f / "label" / "a.png").unlink(), ["image/a.png", "no label"]),
        (lambda f: (f / "image" / "a.png").unlink(), ["label/a.png", "no image"]),
        (lambda f: (f / "label" / "a.png").write_bytes(b""), ["label/a.png", "empty"]),
        (lambda f: (f / "image" / "a.png").write_text("no"), ["image/a.png", "not a picture"]),
        (
            lambda f: (f / "image" / "a.png").write_bytes((f / "image" / "a.png").read_bytes()[:9000]),
            ["image/a.png", "cannot be decoded"],
        ),
        (lambda f: Image.new("RGB", (5000, 10)).save(f / "image" / "a.png"), ["image/a.png", "4096"]),
        (lambda f: Image.new("I;16", (224, 224)).save(f / "image" / "a.png"), ["image/a.png", "I;16"]),
        (lambda f: Image.new("RGBA", (224, 224)).save(f / "image" / "a.png"), ["image/a.png", "transparent"]),
        (lambda f: Image.new("L", (9, 9)).save(f / "image" / "a.jpg"), ["image/a", "same name"]),
    ],
)
def test_a_broken_pair_is_refused_by_the_name_of_its_file(tmp_path, break_it, words):
    save_pair(tmp_path, "a")
    break_it(tmp_path)
    said = refusal(tmp_path)
    for word in words:
        assert word in said


def test_folders_without_pairs(tmp_path):
    assert "no labelled pair" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "none")
    (tmp_path / "image").mkdir()
    assert "label/" in refusal(tmp_path)
    (tmp_path / "file.svs").write_text("x")
    assert "is a file" in refusal(tmp_path / "file.svs")
    assert "nowhere" in refusal("nowhere://support")


def test_other_sizes_are_cut_or_padded_never_resized(tmp_path):
    save_pair(tmp_path, "large", photo(301, 260), disc(301, 260))
    save_pair(tmp_path, "small", photo(100, 224), disc(100, 224))
    support = load_support(str(tmp_path))
    assert np.array_equal(support.images[0], photo(301, 260)[38:262, 18:242])
    assert np.array_equal(support.labels[0], disc(301, 260)[38:262, 18:242])
    assert (support.labels[1][:62] == IGNORE_LABEL).all()
    assert np.array_equal(support.labels[1][62:162], disc(100, 224))
    assert (support.labels[1][162:] == IGNORE_LABEL).all()
    assert support.names == ("large.png (its centre; was 301 x 260)", "small.png (padded; was 100 x 224)")


def test_instances_come_along_and_must_agree_with_the_mask(tmp_path):
    numbers = disc().astype(np.uint16) * 7
    numbers[:112] *= 40
    save_pair(tmp_path, "a")
    Image.fromarray(numbers).save(tmp_path / "label" / "a.inst.png")
    support = load_support(str(tmp_path))
    assert support.instances is not None
    assert np.array_equal(support.instances[0], numbers)
    numbers[0, 0] = 1
    Image.fromarray(numbers).save(tmp_path / "label" / "a.inst.png")
    assert "1 px" in refusal(tmp_path)


def support_set(**changes) -> SupportSet:
    arrays = {
        "images": photo()[None], "labels": disc()[None], "instances": disc()[None].astype(np.int32),
        "names": ("a",), "mpp": 0.5, "class_names": ("disc",),
    }  # fmt: skip
    return SupportSet(**{**arrays, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"images": photo()},
        {"images": photo()[None].astype(np.float32)},
        {"labels": disc()[None] * 7},
        {"labels": disc()[None].astype(np.int64)},
        {"names": ()},
        {"names": ("a", "b")},
        {"instances": np.zeros((1, 224, 224), np.int32)},
        {"labels": np.zeros((1, 224, 224), np.uint8), "instances": None},
        {"mpp": -1.0},
    ],
)
def test_a_support_set_is_checked_when_made(changes):
    support_set()
    with pytest.raises(SupportError):
        support_set(**changes)


def test_digest_is_of_what_determines_a_result():
    first = support_set().digest()
    assert support_set(names=("b",)).digest() == first
    for changes in (
        {"mpp": 0.25},
        {"class_names": ("x",)},
        {"instances": None},
        {"images": photo(seed=1)[None]},
    ):
        assert support_set(**changes).digest() != first


# --- annotations on a slide ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """1000 x 1200 px at 0.25 um per px, read at 0.5: 500 x 600 working px."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pyramid(path, photo(1000, 1200), 0.25)
    source = open_source(str(path), mpp=0.5)
    yield source
    source.close()


def box(left, top, right, bottom, **properties):
    return feature(shapely.box(left, top, right, bottom), **properties)


def feature(geometry, name=None, title=None):
    properties = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    if title:
        properties["name"] = title
    return {"type": "Feature", "geometry": shapely.geometry.mapping(geometry), "properties": properties}


@pytest.fixture
def load(tmp_path, slide):
    def load(*features, class_names=(), content=None):
        path = tmp_path / "drawn.geojson"
        path.write_text(content or json.dumps({"type": "FeatureCollection", "features": features}))
        return load_support(str(path), source=slide, class_names=class_names)

    return load


def test_one_small_region_is_one_patch_centred_on_it(load, slide):
    support = load(box(400, 300, 600, 500, name="Region*"), box(440, 340, 480, 400, name="Nucleus"))
    # Working px: region rows 150..250, cols 200..300, so the patch starts at row 88, col 138.
    assert np.array_equal(support.images[0], slide.read(Window(138, 88, 224, 224))[0])
    expected = np.full((224, 224), IGNORE_LABEL, np.uint8)
    expected[62:162, 62:162] = 0
    expected[82:112, 82:102] = 1
    assert np.array_equal(support.labels[0], expected)
    assert np.array_equal(support.instances[0], expected == 1)
    assert (support.class_name, support.mpp, len(support.names)) == ("Nucleus", 0.5, 1)


def test_a_large_region_is_covered_by_patches_that_do_not_overlap(load):
    support = load(box(0, 0, 1200, 1000, name="region"), box(10, 10, 1190, 990, name="a"))
    assert len(support.names) == 9  # 3 x 3 patches for 500 x 600 px
    assert (support.labels != IGNORE_LABEL).sum() == 500 * 600
    assert (support.labels == 1).sum() == 490 * 590


@settings(max_examples=12)
@given(
    corners=st.lists(
        st.tuples(st.integers(0, 440), st.integers(0, 440)), min_size=3, max_size=7, unique=True
    ),
    offset=st.tuples(st.integers(0, 700), st.integers(0, 500)),
)
def test_a_pixel_is_object_where_its_centre_is_in_the_polygon(tmp_path_factory, slide, corners, offset):
    polygon = shapely.transform(shapely.MultiPoint(corners).convex_hull, lambda xy: xy + np.array(offset))
    if polygon.geom_type != "Polygon" or polygon.area < 500:
        return
    left, top = offset
    region = box(left, top, left + 448, top + 448, name="ROI")
    path = tmp_path_factory.mktemp("drawn") / "a.geojson"
    path.write_text(json.dumps([region, feature(polygon)]))
    labels = load_support(str(path), source=slide).labels[0]
    start_row, start_col = round(top / 2), round(left / 2)
    row, col = np.mgrid[:224, :224]
    x, y = (col + start_col + 0.5) * 2, (row + start_row + 0.5) * 2
    centre = shapely.points(x, y)
    on_edge = shapely.distance(polygon.exterior, centre) < 1e-6
    expected = shapely.contains(polygon, centre)
    known = labels != IGNORE_LABEL
    assert known.sum() >= 223 * 223
    assert np.array_equal((labels == 1)[known & ~on_edge], expected[known & ~on_edge])


def test_holes_parts_and_overlaps(load):
    ring = shapely.box(100, 100, 200, 200) - shapely.box(140, 140, 160, 160)
    parts = shapely.MultiPolygon([shapely.box(220, 100, 240, 120), shapely.box(260, 100, 280, 120)])
    later = shapely.box(180, 180, 220, 220)
    support = load(
        box(80, 80, 300, 300, name="Region"), feature(ring, "a"), feature(parts, "a"), feature(later, "a")
    )
    sizes = np.bincount(support.instances[0].ravel())[1:].tolist()
    assert sizes == [
        50 * 50 - 10 * 10 - 10 * 10,
        2 * 10 * 10,
        20 * 20,
    ]  # the later object wins where two meet
    assert (support.labels == 1).sum() == sum(sizes)


def test_what_is_outside_every_region_is_not_labelled(load):
    support = load(
        box(100, 100, 300, 300, name="Region"),
        box(250, 250, 400, 400, name="a"),
        box(320, 100, 330, 110, name="a"),
    )
    assert (support.labels == 1).sum() == 25 * 25
    assert support.instances.max() == 1
    assert (support.labels != IGNORE_LABEL).sum() == 100 * 100


def test_a_region_at_the_edge_of_the_slide(load):
    support = load(box(0, 0, 100, 100, name="Region"), box(10, 10, 30, 30, name="a"))
    assert (support.labels != IGNORE_LABEL).sum() == 50 * 50
    assert (support.labels == 1).sum() == 100


def test_all_classes_are_used_or_those_that_are_named(load):
    drawn = [box(0, 0, 200, 200, name="Region"), box(10, 10, 30, 30, name="B"), box(50, 50, 90, 90, name="A")]
    support = load(*drawn)
    assert support.class_names == ("A", "B")
    assert np.bincount(support.labels[support.labels != IGNORE_LABEL]).tolist() == [10_000 - 500, 400, 100]
    assert [np.bincount(y[y != IGNORE_LABEL])[1] for y in support.labels_by_class] == [400, 100]
    both = load(*drawn, class_names=["b", "A"])
    assert both.class_names == ("b", "A")
    assert np.bincount(both.labels[both.labels != IGNORE_LABEL]).tolist() == [10_000 - 500, 100, 400]
    one = load(*drawn, class_names=["b"])  # what is of another class is background
    assert ((one.labels == 1).sum(), (one.labels == 0).sum()) == (100, 10_000 - 100)
    assert len({s.digest() for s in (support, both, one)}) == 3
    with pytest.raises(SupportError, match=r"'C', only A, B"):
        load(*drawn, class_names=["A", "C"])


def test_where_two_classes_overlap_the_smaller_object_counts(load):
    gland, nucleus = box(20, 20, 120, 120, name="Gland"), box(40, 40, 60, 60, name="Nucleus")
    region = box(0, 0, 200, 200, name="Region")
    for drawn in ([region, gland, nucleus], [region, nucleus, gland]):
        support = load(*drawn)
        assert np.bincount(support.labels[support.labels != IGNORE_LABEL])[1:].tolist() == [2500 - 100, 100]
        assert np.bincount(support.instances.ravel())[1:].tolist() in ([2400, 100], [100, 2400])


def test_what_is_drawn_as_ignored_is_not_labelled(load):
    support = load(
        box(0, 0, 200, 200, name="Region"), box(10, 10, 30, 30, name="A"), box(20, 0, 60, 200, name="Ignore*")
    )
    assert support.class_names == ("A",)
    assert (support.labels == 1).sum() == 5 * 10
    assert (support.labels != IGNORE_LABEL).sum() == 100 * 100 - 20 * 100


def test_polygons_that_cross_themselves_are_repaired(load):
    bow_tie = shapely.Polygon([(20, 20), (60, 60), (60, 20), (20, 60)])
    support = load(box(0, 0, 200, 200, name="Region"), feature(bow_tie, "a"))
    # Two triangles of 40 x 20 / 2 level-0 px each, four level-0 px to a working one.
    assert (support.labels == 1).sum() == pytest.approx(2 * 40 * 20 / 2 / 4, abs=25)


REGION, OBJECT = box(0, 0, 200, 200, name="Region"), box(10, 10, 30, 30, name="a")


@pytest.mark.parametrize(
    ("features", "word"),
    [
        ([OBJECT], "Region*"),
        ([REGION], "no object"),
        (
            [box(1100, 0, 1300, 100, name="Region", title="mine"), OBJECT],
            "'mine'.*out of the slide of 600 x 500",
        ),
        ([REGION, feature(shapely.Point(1, 1), "a")], "feature 2.*Point"),
        ([REGION, feature(shapely.Polygon([(0, 0), (5, 5), (9, 9)]), "a")], "feature 2.*no area"),
        ([REGION, {"type": "Feature", "geometry": None, "properties": {}}], "feature 2.*geometry"),
        ([REGION, {**OBJECT, "geometry": {"type": "Polygon", "coordinates": [[[0, "x"]]]}}], "feature 2"),
        ([REGION, 7], "entry 2"),
        ([REGION, box(900, 900, 910, 910, name="a")], "labelled as object"),
        ([REGION, box(-5, -5, 300, 300, name="a")], "labelled as background"),
    ],
)
def test_drawings_that_cannot_be_used_are_refused(load, features, word):
    with pytest.raises(SupportError, match=f"drawn.geojson.*{word.replace('*', '.*')}") as error:
        load(*features)
    assert "\n" not in str(error.value)


def test_a_region_round_everything_is_refused(load, monkeypatch):
    monkeypatch.setattr("fewscope.connectors.support.annotations.MAX_PATCHES", 8)
    with pytest.raises(SupportError, match="takes 9"):
        load(box(0, 0, 1200, 1000, name="Region"), OBJECT)


@pytest.mark.parametrize("content", ["{", "3", '{"type": "Topology"}', "null"])
def test_files_that_are_no_geojson(load, content):
    with pytest.raises(SupportError, match=r"drawn\.geojson"):
        load(content=content)


def test_gzip_lists_and_single_files(tmp_path, slide):
    path = tmp_path / "drawn.json.gz"
    path.write_bytes(gzip.compress(json.dumps([REGION, OBJECT]).encode()))
    assert (load_support(str(path), source=slide).labels == 1).sum() == 100
    path.write_bytes(path.read_bytes()[:30])
    assert "not GeoJSON" in refusal(path, source=slide)
    assert "source" in refusal(path)
    assert "no such file" in refusal(tmp_path / "none.geojson", source=slide)


def test_no_pixel_is_labelled_in_two_patches(load):
    """Two regions 30 px apart, and one over both: each patch shows the others' pixels, and labels its own."""
    support = load(
        box(200, 200, 300, 300, name="region"),
        box(360, 200, 460, 300, name="region"),
        box(280, 180, 480, 320, name="region"),
        box(220, 220, 240, 240, name="a"),
        box(380, 220, 400, 240, name="a"),
        box(470, 200, 476, 240, name="a"),
    )
    n_labelled = [int((labels != IGNORE_LABEL).sum()) for labels in support.labels]
    assert n_labelled == [50 * 50, 50 * 50, 100 * 70 - 10 * 50 - 50 * 50]  # working px are 2 x 2 of the slide
