"""The short form of `python -m tests.chaos`: the same cases each time. And that the harness notices what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.chaos import kinds
from tests.chaos.cluster import cluster, fault_of_lost_head
from tests.chaos.failing_store import failing_store
from tests.chaos.kinds import KINDS, Kind, may_mount
from tests.chaos.on_ray import HEAD_GONE_S
from tests.chaos.program import Fault
from tests.chaos.scenes import NOTHING, End, Scene, fault_of_end, make_scenes

pytestmark = pytest.mark.slow

STAGES = {
    "slide": {
        "prepare",
        "decide",
        "segment",
        "number instances",
        "pyramids",
        "tables",
        "outlines and pictures",
        "report",
    }
}
STAGES["raster"] = STAGES["slide"] | {"map"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    return make_scenes(tmp_path_factory.mktemp("chaos"))


@pytest.fixture(params=["slide", "raster"])
def scene(request: pytest.FixtureRequest, scenes: dict[str, Scene]) -> Scene:
    return scenes[request.param]


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[None]:
    with failing_store() as proxy:
        kinds.STORE.append(proxy)
        yield
        kinds.STORE.clear()


SIMPLE = [kind for kind in KINDS if not kind.needs and kind.name != "killed at events"]
"""Kills at events are tried in each stage, below."""


@pytest.mark.parametrize("kind", SIMPLE, ids=lambda kind: kind.name)
def test_the_same_bytes_or_one_line(kind: Kind, scene: Scene, tmp_path: Path) -> None:
    wrong = kind.attempt(scene, Random(f"{kind.name} {scene.kind}"), tmp_path / "out")
    assert wrong is None, wrong


@pytest.mark.skipif(not may_mount(), reason="nothing may be mounted here")
def test_a_small_disk(scene: Scene, tmp_path: Path) -> None:
    wrong = kinds.small_disk(scene, Random(3), tmp_path / "out")
    assert wrong is None, wrong


@pytest.mark.usefixtures("store")
def test_a_store_that_fails(scenes: dict[str, Scene], tmp_path: Path) -> None:
    wrong = kinds.failing_store(scenes["slide"], Random(1), tmp_path / "out")
    assert wrong is None, wrong
    assert kinds.STORE[0].count[1] > 0


def test_a_job_whose_head_is_killed_ends_by_itself_with_one_line(
    scenes: dict[str, Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Ray; workers and machines that go are in `test_failing_workers`, every stage in the long form."""
    monkeypatch.setenv(HEAD_GONE_S, "3")
    with cluster() as made:
        made.start(head_alone=True)
        code, errors = made.run(scenes["slide"], tmp_path / "out", "head", "segment", 0.2, Random(0))
    assert code == 2
    assert fault_of_lost_head(errors) is None
    assert not (tmp_path / "out/report.json").exists()


@pytest.mark.parametrize("stage", sorted(STAGES["raster"]))
def test_killed_in_each_stage(scenes: dict[str, Scene], stage: str, tmp_path: Path) -> None:
    """In the middle of what it does to the disk; what rasters have in common with slides on a slide."""
    scene, out = scenes["slide" if stage in STAGES["slide"] else "raster"], tmp_path / "out"
    assert scene.run(out, Fault("kill", stage, scene.events[stage] // 2)).code == kinds.KILLED
    assert scene.fault_of_resumed(out) is None


# --- the harness itself ---------------------------------------------------------------------------------


def test_each_stage_touches_the_disk_and_all_files_are_compared(scene: Scene) -> None:
    assert set(scene.events) == STAGES[scene.kind]
    names = {"instances.parquet", "instances.geojson.gz", "report.json"}
    if scene.kind == "raster":
        names |= {
            "mask.tif",
            "probability.tif",
            "features.gpkg/features",
            "features.parquet",
            "centreline.parquet",
        }
    assert names <= scene.expected.keys()
    assert any(name.startswith("result.zarr/labels/instances/1/c/") for name in scene.expected)


def test_a_fault_happens_at_its_event(scenes: dict[str, Scene], tmp_path: Path) -> None:
    end = scenes["slide"].run(tmp_path / "out", Fault("full", "segment", 40))
    assert end.code == 2
    assert "No space left on device" in end.errors[0]
    assert end.events["segment"] >= 41
    assert scenes["slide"].run(tmp_path / "killed", Fault("kill", "segment", 40)).code == kinds.KILLED
    assert not (tmp_path / "killed/report.json").exists()


def test_other_bytes_and_what_is_left_over_are_noticed(scenes: dict[str, Scene], tmp_path: Path) -> None:
    slide, out = scenes["slide"], tmp_path / "out"
    assert slide.fault_of_resumed(out) is None
    (out / ".fewscope-ab12cd34").mkdir()
    assert "left over: .fewscope-ab12cd34" in str(slide.fault_of_files(out))
    (out / "instances.parquet").write_bytes(b"")
    assert "not the same bytes: instances.parquet" in str(slide.fault_of_files(out))
    assert "is missing or was changed" in str(slide.fault_of_resumed(out))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (End(-11, []), "ended with -11"),
        (End("hangs", []), "ended with hangs"),
        (End(2, []), "not one line"),
        (End(2, ["error: /out: a", "b"]), "not one line"),
        (End(2, ["Traceback"]), "not one line"),
        (End(2, ["error: no space"]), "does not name the folder"),
        (End(0, ["a warning"]), "says"),
        (End(143, ["Terminated"]), "says"),
    ],
)
def test_ends_that_are_faults(end: End, words: str) -> None:
    assert words in str(fault_of_end(end, "/out", (0, 2, 143)))


def test_ends_that_are_none() -> None:
    assert fault_of_end(End(0, []), "/out", (0,)) is None
    assert fault_of_end(End(2, ["error: cannot write /out/a: no space"]), "/out", (0, 2)) is None
    assert fault_of_end(End(143, ["stopped; the same command resumes"]), "/out", (0, 143)) is None


def test_cases_are_the_same_each_time(scenes: dict[str, Scene]) -> None:
    drawn = [kinds.some_event(scenes["raster"], Random(7), "kill") for _ in range(2)]
    assert drawn[0] == drawn[1] != NOTHING
