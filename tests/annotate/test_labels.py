"""Labels on the disk: operations, undo, crashes, files of other programs, and what batch jobs read from them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewscope.annotate.journal import Journal
from fewscope.annotate.label_files import LabelFile
from fewscope.annotate.labels import FILE, JOURNAL, Labels
from fewscope.annotate.shapes import MAX_VERTICES
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.source import SourceInfo
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.sparse import RIM
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import LabelError, OutputError, SupportError
from tests.helpers import drawn_files
from tests.helpers.machine import ROOT
from tests.helpers.pages import rectangle
from tests.helpers.rasters import north_up, waves, write_raster

NEWEST = 10**9


def slide_info(scan_origin: tuple[int, int] = (0, 0)) -> SourceInfo:
    return SourceInfo(
        uri="slide.svs", kind="slide", height=500, width=600, transform=Affine.scale(2), mpp=0.5, mpp_source="",
        native_mpp=0.25, native_height=1000, native_width=1200, vendor="test", crs=None, background=(255, 255, 255),
        fingerprint="f", scan_origin=scan_origin,
    )  # fmt: skip


def opened(
    folder: Path, info: SourceInfo | None = None, support: str | None = None, **options: Any
) -> Labels:
    return Labels(folder, LabelFile(info or slide_info(), SupportOptions(**options)), support)


@pytest.fixture
def labels(tmp_path):
    made = opened(tmp_path)
    yield made
    made.close()


def brush(x0: float, x1: float, y: float = 100, radius: float = 10, **more: Any) -> dict[str, Any]:
    return {
        "op": "brush",
        "line": [[x0, y], [x1, y]],
        "radius": radius,
        "class": "cell",
        "kind": "object",
        **more,
    }


def shapes_of(labels: Labels) -> list[tuple[Any, ...]]:
    return [(one.id, one.kind, one.class_name, one.source, one.geometry.wkb_hex) for one in labels.all()]


def only(labels: Labels) -> Any:
    (one,) = labels.all()
    return one


def test_a_brush_paints_adds_and_the_eraser_cuts(labels):
    labels.apply([brush(100, 200)], 0)
    one = only(labels)
    assert one.geometry.area == pytest.approx(100 * 20 + np.pi * 100, rel=0.02)
    labels.apply([brush(200, 300, target=one.id)], NEWEST)
    assert only(labels).geometry.area == pytest.approx(200 * 20 + np.pi * 100, rel=0.02)
    labels.apply([{"op": "erase", "line": [[200, 50], [200, 150]], "radius": 5, "ids": None}], NEWEST)
    left, right = sorted(labels.all(), key=lambda label: label.geometry.bounds[0])
    assert (left.geometry.bounds[2], right.geometry.bounds[0]) == (195, 205)
    assert one.id in (left.id, right.id)
    labels.apply([{"op": "erase", "line": [[80, 100], [320, 100]], "radius": 30, "ids": None}], NEWEST)
    assert not labels.all()


def test_the_eraser_spares_regions_unless_they_are_named(labels):
    labels.apply([rectangle(10, 10, 210, 210, "region")], 0)
    own = only(labels).id
    stroke = {"op": "erase", "line": [[0, 110], [300, 110]], "radius": 10}
    labels.apply([rectangle(20, 20, 40, 200)], NEWEST)
    labels.apply([stroke | {"ids": None}], NEWEST)
    assert len(labels.all()) == 3
    labels.apply([stroke | {"ids": [own]}], NEWEST)
    region = next(label for label in labels.all() if label.kind == "region")
    assert region.geometry.area == 200 * 180


def test_split_merge_and_relabel(labels):
    labels.apply([rectangle(100, 100, 200, 200)], 0)
    own = only(labels).id
    changes = labels.apply([{"op": "split", "id": own, "line": [[90, 150], [210, 150]]}], NEWEST)
    assert [one.geometry.area for one in changes.changed] == [5000, 5000]
    assert own in [one.id for one in changes.changed]
    with pytest.raises(LabelError, match="does not cut"):
        labels.apply([{"op": "split", "id": own, "line": [[150, 90], [150, 110]]}], NEWEST)
    ids = [one.id for one in labels.all()]
    labels.apply([{"op": "merge", "ids": ids}], NEWEST)
    assert only(labels).geometry.equals(shapely.box(100, 100, 200, 200))
    labels.apply([{"op": "relabel", "ids": [ids[0]], "class": "gland"}], NEWEST)
    assert only(labels).class_name == "gland"
    assert list(labels.classes) == ["cell", "gland"]


def test_all_operations_of_a_request_count_or_none(labels):
    before = labels.revision
    with pytest.raises(LabelError, match="no operation"):
        labels.apply([brush(100, 200), {"op": "unknown"}], 0)
    assert labels.revision == before
    assert not labels.all()


def test_a_class_is_renamed_everywhere_and_back(labels):
    labels.apply([rectangle(10, 10, 50, 50), rectangle(60, 10, 90, 50, name="gland")], 0)
    labels.apply([{"op": "class", "name": "nucleus", "colour": "#102030", "rename_from": "cell"}], NEWEST)
    assert sorted(one.class_name or "" for one in labels.all()) == ["gland", "nucleus"]
    assert labels.classes["nucleus"] == (16, 32, 48)
    labels.apply([{"op": "undo"}], NEWEST)
    assert sorted(one.class_name or "" for one in labels.all()) == ["cell", "gland"]
    assert "nucleus" not in labels.classes


def test_shapes_are_clipped_by_the_image_and_repaired(labels):
    labels.apply([rectangle(-100, -100, 50, 50, "region")], 0)
    assert only(labels).geometry.equals(shapely.box(0, 0, 50, 50))
    bow = [[100, 100], [200, 200], [200, 100], [100, 200], [100, 100]]
    feature = {
        "geometry": {"type": "Polygon", "coordinates": [bow]},
        "properties": {"kind": "object", "class": "a"},
    }
    labels.apply([{"op": "add", "feature": feature}], NEWEST)
    assert all(one.geometry.is_valid for one in labels.all())


def test_undo_and_redo_know_no_end_also_after_a_restart(tmp_path):
    labels = opened(tmp_path)
    states = [shapes_of(labels)]
    for k in range(30):
        operation = (
            brush(100 + 20 * k, 130 + 20 * k) if k % 3 else rectangle(20 * k + 5, 300, 20 * k + 15, 350)
        )
        labels.apply([operation], NEWEST)
        states.append(shapes_of(labels))
    for state in states[-2:14:-1]:
        labels.apply([{"op": "undo"}], NEWEST)
        assert shapes_of(labels) == state
    labels.close()
    labels = opened(tmp_path)
    assert shapes_of(labels) == states[15]
    for state in states[14::-1]:
        assert labels.apply([{"op": "undo"}], NEWEST).redo
        assert shapes_of(labels) == state
    assert not labels.snapshot().undo
    for state in states[1:]:
        labels.apply([{"op": "redo"}], NEWEST)
        assert shapes_of(labels) == state
    labels.close()


KILLED = """
import sys
sys.path.insert(0, {root!r})
from tests.annotate.test_labels import brush, opened
from pathlib import Path
labels = opened(Path({folder!r}))
for k in range(10_000):
    changes = labels.apply([brush(10 + k % 900, 40 + k % 900)], 10**9)
    print(changes.revision, changes.changed[0].id, flush=True)
"""


@pytest.mark.slow
def test_killing_the_server_loses_nothing_that_was_answered(tmp_path):
    script = KILLED.format(root=str(ROOT), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    answered = [process.stdout.readline().split() for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    answered += [
        line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")
    ]
    process.wait()
    process.stdout.close()
    labels = opened(tmp_path)
    kept = {one.id for one in labels.all()}
    assert {own for _, own in answered} <= kept
    assert labels.revision >= int(answered[-1][0])
    drawn = json.loads((tmp_path / FILE).read_text())
    assert {one["id"] for one in drawn["features"]} == kept, "the file is what the journal says"
    labels.close()


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    labels = opened(tmp_path)
    labels.apply([brush(100, 200)], 0)
    state = shapes_of(labels)
    labels.close()
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"type":"ops","removed":[],"added":[{"ra')
    labels = opened(tmp_path)
    assert shapes_of(labels) == state
    labels.apply([brush(300, 400)], NEWEST)
    labels.close()
    labels = opened(tmp_path)
    assert len(labels.all()) == 2
    labels.close()


def test_a_file_that_a_crash_left_behind_the_journal_is_written_again(tmp_path):
    labels = opened(tmp_path)
    labels.apply([brush(100, 200)], 0)
    old = (tmp_path / FILE).read_bytes()
    labels.apply([brush(300, 400)], NEWEST)
    new = (tmp_path / FILE).read_bytes()
    labels.close()
    (tmp_path / FILE).write_bytes(old)
    opened(tmp_path).close()
    assert (tmp_path / FILE).read_bytes() == new
    (tmp_path / FILE).unlink()
    opened(tmp_path).close()
    assert (tmp_path / FILE).read_bytes() == new


def test_a_damaged_journal_is_set_aside_and_the_labels_stay(tmp_path):
    labels = opened(tmp_path)
    labels.apply([brush(100, 200), rectangle(10, 10, 50, 50, "region")], 0)
    kept = sorted((one.kind, one.class_name, one.geometry.normalize().wkt) for one in labels.all())
    labels.close()
    path = tmp_path / JOURNAL
    path.write_bytes(b"not json\n" + path.read_bytes())
    labels = opened(tmp_path)
    assert sorted((one.kind, one.class_name, one.geometry.normalize().wkt) for one in labels.all()) == kept
    assert any("damaged" in note for note in labels.notes)
    assert len(list(tmp_path.glob(f"{JOURNAL}.damaged-*"))) == 1
    labels.close()


def test_a_folder_is_open_once(tmp_path, labels):
    with pytest.raises(LabelError, match="another `fewscope annotate`"):
        Journal(labels.path.with_name(JOURNAL))


def test_where_nothing_was_drawn_nothing_is_written(tmp_path, labels):
    """A page with hundreds of pictures looks at all their files, each second."""
    assert labels.reload() is None
    assert not (tmp_path / FILE).exists()
    empty = b'{"type": "FeatureCollection", "features": []}'
    (tmp_path / FILE).write_bytes(empty)  # by another program
    labels.reload()
    written = (tmp_path / FILE).stat().st_mtime_ns
    assert labels.reload() is None
    assert (tmp_path / FILE).stat().st_mtime_ns == written
    labels.apply([brush(100, 140)], labels.revision)
    assert labels.reload() is None
    assert opened_shapes(tmp_path / FILE) == 1


def opened_shapes(path: Path) -> int:
    return len(json.loads(path.read_text())["features"])


def test_an_edit_of_another_program_is_a_change_like_any_other(tmp_path, labels):
    labels.apply([rectangle(10, 10, 210, 210, "region"), rectangle(20, 20, 60, 60)], 0)
    assert labels.reload() is None
    before = shapes_of(labels)
    drawn = json.loads((tmp_path / FILE).read_text())
    far = {"type": "Polygon", "coordinates": [[[500, 500], [520, 500], [520, 520], [500, 500]]]}
    drawn["features"].append(
        {"type": "Feature", "geometry": far, "properties": {"classification": {"name": "cell"}}}
    )
    (tmp_path / FILE).write_text(json.dumps(drawn, indent=2))
    changes = labels.reload()
    assert changes is not None
    assert [one.source for one in changes.changed] == ["file"]
    assert [one[0] for one in shapes_of(labels)][:2] == [one[0] for one in before], (
        "the others keep their ids"
    )
    written = json.loads((tmp_path / FILE).read_text())["features"][-1]
    assert "name" not in written["properties"], "what was ignored outside regions stays ignored"
    labels.apply([{"op": "undo"}], NEWEST)
    assert shapes_of(labels) == before
    entries = [json.loads(line)["type"] for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert entries[-2:] == ["replace", "undo"]


def test_an_edit_of_another_program_survives_a_change_of_the_page_right_after_it(tmp_path, labels):
    """The watch looks every second or two: what comes between is not overwritten."""
    labels.apply([rectangle(20, 20, 60, 60), rectangle(100, 20, 160, 60)], 0)
    drawn = json.loads((tmp_path / FILE).read_text())
    del drawn["features"][0]
    (tmp_path / FILE).write_text(json.dumps(drawn))
    labels.apply([rectangle(200, 20, 260, 60)], NEWEST)
    assert [one.geometry.bounds[0] for one in labels.all()] == [100, 200]


def test_an_edit_of_another_program_is_not_lost_when_a_round_is_put_back(tmp_path, labels):
    labels.apply([rectangle(20, 20, 60, 60)], 0)
    then = labels.state_now()
    drawn = json.loads((tmp_path / FILE).read_text())
    drawn["features"][0]["geometry"]["coordinates"][0][2] = [90, 60]
    (tmp_path / FILE).write_text(json.dumps(drawn))
    labels.restore(*then)
    assert only(labels).geometry.bounds[2] == 60
    labels.apply([{"op": "undo"}], NEWEST)
    assert only(labels).geometry.bounds[2] == 90


def test_a_file_that_could_not_be_written_is_not_taken_for_an_edit(tmp_path, labels, monkeypatch):
    labels.apply([rectangle(20, 20, 60, 60)], 0)

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("fewscope.annotate.kept_files.write_atomic", full)
        labels.apply([rectangle(100, 20, 160, 60)], NEWEST)
        with pytest.raises(LabelError, match="the disk is full"):
            labels.write_again()  # nothing is learned from a file that is old
    assert "the disk is full" in labels.problem
    labels.reload()
    assert not labels.problem
    assert len(labels.all()) == 2
    assert len(json.loads((tmp_path / FILE).read_text())["features"]) == 2


def test_a_file_that_a_full_disk_left_behind_is_not_taken_for_an_edit_at_the_next_start(
    tmp_path, monkeypatch
):
    labels = opened(tmp_path)
    labels.apply([rectangle(20, 20, 60, 60)], 0)

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("fewscope.annotate.kept_files.write_atomic", full)
        for x in (100, 200, 300):  # the journal takes a few more lines
            labels.apply([rectangle(x, 20, x + 60, 60)], NEWEST)
    labels.close()
    again = opened(tmp_path)
    assert len(again.all()) == 4
    assert len(json.loads((tmp_path / FILE).read_text())["features"]) == 4
    again.close()


def test_labels_outside_the_image_are_told_of(tmp_path):
    path = tmp_path / "of_another.geojson"
    features = [
        {
            "type": "Feature",
            "geometry": shapely.geometry.mapping(shapely.box(x, 50, x + 60, 90)),
            "properties": {"classification": {"name": name}},
        }
        for x, name in ((50_000, "Region*"), (50_010, "cell"), (40, "cell"))
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    labels = opened(tmp_path / "out", support=str(path))
    assert len(labels.all()) == 1
    assert "2 of 3 labels lie outside the image" in " ".join(labels.notes)
    labels.close()


def test_an_older_file_that_somebody_puts_back_is_taken(tmp_path):
    labels = opened(tmp_path)
    labels.apply([rectangle(20, 20, 60, 60)], 0)
    old = (tmp_path / FILE).read_bytes()
    for x in (100, 200, 300):
        labels.apply([rectangle(x, 20, x + 60, 60)], NEWEST)
    labels.close()
    (tmp_path / FILE).write_bytes(old)
    again = opened(tmp_path)
    assert len(again.all()) == 1
    again.close()


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path, labels):
    labels.apply([rectangle(20, 20, 60, 60)], 0)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(SupportError):
        labels.reload()
    assert len(labels.all()) == 1


def test_the_file_is_what_qupath_opens(tmp_path):
    labels = opened(tmp_path, slide_info(scan_origin=(7, 30)))
    labels.apply(
        [
            rectangle(10, 40, 210, 240, "region"),
            rectangle(20, 50, 60, 90),
            rectangle(20, 120, 60, 160, "not"),
        ],
        0,
    )
    labels.apply([rectangle(500, 500, 520, 520)], NEWEST)
    labels.close()
    drawn = json.loads((tmp_path / FILE).read_text())
    region, inside, background, outside = drawn["features"]
    assert drawn["type"] == "FeatureCollection"
    assert region["geometry"]["coordinates"][0][0] == [3.0, 10.0], "from the corner of the scanned area"
    names = [one["properties"]["classification"]["name"] for one in drawn["features"]]
    assert names == ["Region*", "cell", "Not*", "cell"]
    assert all(one["properties"]["objectType"] == "annotation" for one in drawn["features"])
    assert inside["properties"]["classification"]["color"] == [230, 85, 13]
    assert [one["properties"].get("name") for one in (inside, background, outside)] == [
        None,
        None,
        "outlined*",
    ]


def test_labels_start_from_a_support_set_and_mean_the_same(tmp_path):
    support = ROOT / "examples" / "ihc_nuclei.geojson"
    info = SourceInfo(
        **{name: getattr(slide_info(), name) for name in SourceInfo.__slots__}
        | {"native_height": 4096, "native_width": 4096}
    )
    labels = opened(tmp_path, info, str(support))
    drawn = json.loads(support.read_text())
    drawn = drawn["features"] if isinstance(drawn, dict) else drawn
    assert len(labels.all()) == len(drawn)
    assert not labels.snapshot().undo
    before = {shapely.geometry.shape(one["geometry"]).normalize().wkt for one in drawn}
    written = json.loads((tmp_path / FILE).read_text())["features"]
    assert {shapely.geometry.shape(one["geometry"]).normalize().wkt for one in written} == before
    labels.close()


def test_labels_start_from_a_file_of_another_program_at_the_corner_of_the_file(tmp_path):
    drawing = [("Region", shapely.box(20, 40, 220, 240)), ("Nucleus", shapely.box(50, 60, 90, 100))]
    support = drawn_files.write(tmp_path, "RoiSet.zip", drawing)
    labels = opened(tmp_path / "out", slide_info(scan_origin=(7, 30)), support)
    assert {one.kind: one.geometry.bounds for one in labels.all()} == {
        "region": (20, 40, 220, 240),
        "object": (50, 60, 90, 100),
    }
    assert "ROIs of ImageJ" in " ".join(labels.notes)
    again = LabelFile(slide_info(scan_origin=(7, 30)), SupportOptions()).read(str(tmp_path / "out" / FILE))[0]
    assert {one.geometry.bounds for one in again} == {one.geometry.bounds for one in labels.all()}
    labels.close()


def test_objects_of_a_file_without_a_region_go_on_counting_when_one_is_drawn(tmp_path):
    support = drawn_files.write(tmp_path, "drawn.geojson", [("Nucleus", shapely.box(50, 60, 90, 100))])
    labels = opened(tmp_path / "out", support=support)
    assert any("has no region" in note for note in labels.notes)
    labels.apply([rectangle(300, 300, 500, 500, "region")], NEWEST)
    found = LabelFile(slide_info(), SupportOptions()).read(str(tmp_path / "out" / FILE))[0]
    assert {one.kind: one.source for one in found} == {"object": "drawn", "region": "drawn"}
    labels.close()


@pytest.mark.parametrize("crs", ["EPSG:32618", "EPSG:4326", None, "+proj=laea +lat_0=10 +lon_0=-75 +units=m"])
def test_on_maps_a_batch_job_reads_what_was_drawn(tmp_path, crs):
    grid = north_up() if crs != "EPSG:4326" else Affine(1e-4, 0, -75, 0, -1e-4, 10)
    if crs is not None and crs.startswith("+"):
        grid = Affine(10, 0, 1000, 0, -10, 5000)
    path = write_raster(tmp_path / "scene.tif", waves(300, 400).astype(np.uint8), grid, crs=crs)
    source = open_source(path, raster=RasterOptions())
    labels = opened(tmp_path / "out", source.info)
    labels.apply(
        [
            rectangle(20, 20, 240, 240, "region"),
            rectangle(30.3, 40.6, 80.2, 90.7, name="water"),
            rectangle(300, 200, 320, 220, name="water"),
            rectangle(350, 200, 360, 210, "not"),
        ],
        0,
    )
    labels.close()
    found = load_support(str(tmp_path / "out" / FILE), source=source)
    assert (found.n_dense, found.n_sparse, found.class_names) == (1, 1, ("water",))
    assert (found.labels[0] == 1).sum() == 50 * 50
    rim = shapely.box(0, 0, 20, 20).buffer(RIM).area - 400
    assert (found.labels[1] == 1).sum() == 400
    assert (found.labels[1] == 0).sum() == pytest.approx(100 + rim, abs=12)
    drawn = json.loads((tmp_path / "out" / FILE).read_text())
    assert [one["properties"]["class"] for one in drawn["features"]] == ["Region*", "water", "water", "Not*"]
    source.close()


coordinate = st.floats(-200, 1400, allow_nan=False)
stroke = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=6)
operation = st.one_of(
    st.builds(
        lambda line, radius, kind: {
            "op": "brush",
            "line": line,
            "radius": radius,
            "class": "cell",
            "kind": kind,
        },
        stroke,
        st.floats(0.5, 80),
        st.sampled_from(["object", "not"]),
    ),
    st.builds(
        lambda line, radius: {"op": "erase", "line": line, "radius": radius, "ids": None},
        stroke,
        st.floats(0.5, 80),
    ),
    st.sampled_from([{"op": "undo"}, {"op": "redo"}]),
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(operation, max_size=12))
def test_whatever_is_drawn_is_valid_and_the_same_after_a_restart(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("labels")
    labels = opened(folder)
    for one in drawn:
        try:
            labels.apply([one], NEWEST)
        except LabelError:
            continue
    state = shapes_of(labels)
    for label in labels.all():
        assert label.geometry.is_valid
        assert shapely.box(0, 0, 1200, 1000).covers(label.geometry)
        xy = shapely.get_coordinates(label.geometry)
        assert np.array_equal(xy, np.round(xy, 2))
        assert len(xy) <= MAX_VERTICES
    labels.close()
    again = opened(folder)
    assert shapes_of(again) == state
    text = (folder / FILE).read_bytes() if (folder / FILE).exists() else b""
    read, _ = LabelFile(slide_info(), SupportOptions()).read(str(folder / FILE)) if state else ([], [])
    assert sorted(one.geometry.normalize().wkt for one in read) == sorted(
        one.geometry.normalize().wkt for one in again.all()
    ), text[:200]
    again.close()
