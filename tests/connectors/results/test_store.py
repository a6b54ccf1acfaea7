"""The result store: valid OME-Zarr 0.5, one writer a shard, the same bytes for the same arrays."""

import errno
import json
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from affine import Affine
from ome_zarr_models.v05 import Image
from rasterio.windows import Window

from fewscope.connectors.results import store_layout
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.errors import OutputError, RunInUse, RunMismatch
from tests.helpers.object_stores import s3_bucket

SPEC = StoreSpec(
    height=150, width=1100, shard=64, chunk=32, scale=(0.5, 0.25), scale_unit="micrometer", name="a slide"
)


def files(folder: str | Path) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def blobs(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Zeros with some filled boxes, so that some shards are empty."""
    image = np.zeros(shape, dtype)
    for row, col in zip(rng.integers(0, shape[0], 5), rng.integers(0, shape[1], 5), strict=True):
        image[row : row + 30, col : col + 40] = rng.integers(1, np.iinfo(dtype).max, dtype=dtype)
    return image


def write_all(store: ResultStore, name: Any, image: np.ndarray) -> None:
    store.write(name, 0, Window(0, 0, image.shape[1], image.shape[0]), image)


def test_the_store_is_valid_ome_zarr_and_says_where_pixels_are(tmp_path: Path) -> None:
    ResultStore(str(tmp_path)).create(SPEC, attributes={"model": {"digest": "ab12"}})
    group = zarr.open_group(str(tmp_path / "result.zarr"), mode="r")
    image = Image.from_zarr(group)
    assert image.labels is not None
    assert image.labels.label_paths == ["semantic", "instances"]
    attributes = group.attrs.asdict()
    assert attributes["ome"]["version"] == "0.5"
    assert attributes["fewscope"]["model"] == {"digest": "ab12"}
    (multiscale,) = attributes["ome"]["multiscales"]
    assert multiscale["name"] == "a slide"
    assert multiscale["axes"] == [
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    assert [data["path"] for data in multiscale["datasets"]] == ["0", "1", "2"]  # 1100, 550, 275 px
    # The mean of 4 x 4 pixels lies 1.5 pixels right of and below the first one's centre.
    assert multiscale["datasets"][2]["coordinateTransformations"] == [
        {"type": "scale", "scale": [2.0, 1.0]},
        {"type": "translation", "translation": [0.75, 0.375]},
    ]
    assert attributes["ome"]["omero"]["channels"][0]["window"] == {
        "min": 0,
        "max": 255,
        "start": 0,
        "end": 255,
    }
    for name in ("semantic", "instances"):
        label = group[f"labels/{name}"].attrs.asdict()["ome"]
        assert label["image-label"]["source"] == {"image": "../../"}
        assert label["multiscales"][0]["name"] == name  # its own, without the folders that it lies in
        levels = label["multiscales"][0]["datasets"]
        assert levels[2]["coordinateTransformations"] == [{"type": "scale", "scale": [2.0, 1.0]}]
    semantic = group["labels/semantic"].attrs.asdict()["ome"]["image-label"]
    assert [c["label-value"] for c in semantic["colors"]] == [
        p["label-value"] for p in semantic["properties"]
    ]


def test_a_store_without_a_unit_is_valid_too(tmp_path: Path) -> None:
    ResultStore(str(tmp_path)).create(StoreSpec(height=3, width=5, shard=64, chunk=32))
    image = Image.from_zarr(zarr.open_group(str(tmp_path / "result.zarr"), mode="r"))
    assert len(image.ome_attributes.multiscales[0].datasets) == 1


@pytest.mark.parametrize(("side", "levels"), [(1, 1), (512, 1), (513, 2), (1024, 2), (1025, 3), (100_000, 9)])
def test_the_pyramid_ends_when_the_longer_side_fits(side: int, levels: int) -> None:
    spec = StoreSpec(height=1, width=side, shard=4096)
    assert spec.levels == levels
    assert spec.shape(levels - 1) == (1, -(-side // 2 ** (levels - 1)))


def test_what_is_written_is_read_by_zarr_and_dask(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    store = ResultStore(str(tmp_path)).create(SPEC)
    images = {
        name: blobs(rng, (150, 1100), dtype)
        for name, dtype in [("probability", "uint8"), ("semantic", "uint8"), ("instances", "uint32")]
    }
    for name, image in images.items():
        write_all(store, name, image)
    group = zarr.open_group(str(tmp_path / "result.zarr"), mode="r")
    np.testing.assert_array_equal(group["0"][:], images["probability"])
    lazy = da.from_zarr(group["labels/instances/0"])
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), images["instances"])
    assert group["0"].metadata.dimension_names == ("y", "x")


def test_a_window_that_cuts_a_shard_is_refused(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path)).create(SPEC)
    store.write("semantic", 0, Window(1088, 128, 12, 22), np.ones((22, 12), np.uint8))  # the clipped corner
    before = files(tmp_path)
    for row, col, height, width in [
        (0, 0, 64, 32),
        (0, 0, 63, 64),
        (32, 0, 64, 64),
        (0, 1, 64, 63),
        (128, 0, 21, 64),
        (128, 0, 64, 64),
        (-64, 0, 64, 64),
        (0, 0, 0, 64),
        (192, 0, 64, 64),
    ]:
        with pytest.raises(ValueError, match="give each shard to one writer"):
            store.write(
                "semantic", 0, Window(col, row, width, height), np.ones((max(height, 0), width), np.uint8)
            )
    assert files(tmp_path) == before


@pytest.mark.parametrize("block", [np.ones((64, 64), np.int64), np.ones((64, 63), np.uint8)])
def test_a_block_that_does_not_fit_is_refused(tmp_path: Path, block: np.ndarray) -> None:
    store = ResultStore(str(tmp_path)).create(SPEC)
    with pytest.raises(ValueError, match=r"give uint8 \(64, 64\)"):
        store.write("semantic", 0, Window(0, 0, 64, 64), block)


def test_empty_shards_have_no_file_and_a_retry_with_zeros_removes_the_old_one(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path)).create(SPEC)
    shard = tmp_path / "result.zarr" / "labels" / "semantic" / "0" / "c" / "0" / "1"
    block = np.ones((64, 128), np.uint8)
    block[:, :64] = 0
    store.write("semantic", 0, Window(0, 0, 128, 64), block)
    assert [path.name for path in shard.parent.iterdir()] == ["1"]
    store.write("semantic", 0, Window(64, 0, 64, 64), np.zeros((64, 64), np.uint8))
    assert not shard.exists()
    assert not store.array("semantic")[:].any()


def test_a_retry_over_a_damaged_shard_works(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path)).create(SPEC)
    block = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64)
    store.write("instances", 0, Window(0, 0, 64, 64), block)
    shard = tmp_path / "result.zarr/labels/instances/0/c/0/0"
    whole = shard.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):  # a power cut
        shard.write_bytes(damaged)
        store.write("instances", 0, Window(0, 0, 64, 64), block)
        assert shard.read_bytes() == whole


def test_the_same_arrays_give_the_same_files_in_any_order_and_partition(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    images = {name: blobs(rng, (150, 1100), "uint8") for name in ("probability", "semantic")}
    labels = blobs(rng, (150, 1100), "uint32")
    whole = ResultStore(str(tmp_path / "whole")).create(SPEC, attributes={"a": 1, "b": 2})
    parts = ResultStore(str(tmp_path / "parts")).create(SPEC, attributes={"a": 1, "b": 2})
    for name, image in {**images, "instances": labels}.items():
        write_all(whole, name, image)
        windows = [(r, c) for r in range(0, 150, 64) for c in range(0, 1100, 128)]
        for row, col in [windows[i] for i in rng.permutation(len(windows))]:
            part = image[row : row + 64, col : col + 128]
            for value in (np.zeros_like(part) + 1, part):  # a retry after another outcome
                parts.write(name, 0, Window(col, row, part.shape[1], part.shape[0]), value)  # type: ignore[arg-type]
    assert files(tmp_path / "whole") == files(tmp_path / "parts")


def _write_column(store: ResultStore, col: int) -> None:
    for row in range(0, 150, 64):
        height = min(64, 150 - row)
        value = np.full((height, 64), col + row + 1, np.uint32)
        store.write("instances", 0, Window(col, row, 64, height), value)


@pytest.mark.slow
def test_many_processes_write_at_once(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path)).create(SPEC)
    store.array("instances")  # an open array does not hinder the pickle
    columns = list(range(0, 1088, 64))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        other = pool.starmap_async(_write_column, [(store, col) for col in columns[::2]])
        for col in columns[1::2]:
            _write_column(store, col)
        other.get()
    read = store.array("instances")[:]
    rows, cols = np.indices(read.shape)
    expected = (cols // 64 * 64 + rows // 64 * 64 + 1) * (cols < 1088)
    np.testing.assert_array_equal(read, expected)


def test_create_again_keeps_the_data_of_the_same_run(tmp_path: Path) -> None:
    store = ResultStore(str(tmp_path)).create(SPEC)
    _write_column(store, 64)
    before = files(tmp_path)
    ResultStore(str(tmp_path)).create(SPEC)
    assert files(tmp_path) == before
    other = StoreSpec(height=150, width=1100, shard=128, chunk=32)
    with pytest.raises(RunMismatch, match="shard: was 64, now 128"):
        ResultStore(str(tmp_path)).create(other)
    assert files(tmp_path) == before
    again = ResultStore(str(tmp_path)).create(other, overwrite=True)
    assert again.spec == other
    assert not again.array("instances")[:].any()
    assert not [name for name in files(tmp_path) if "/c/" in name]


def test_a_create_that_was_killed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    real = store_layout._create_array
    calls = iter(range(100))

    def create_five(*args: Any) -> None:
        return real(*args) if next(calls) < 5 else killed()

    with monkeypatch.context() as patch:
        patch.setattr(store_layout, "_create_array", create_five)
        with pytest.raises(KeyboardInterrupt):
            ResultStore(str(tmp_path / "a")).create(SPEC)
    with pytest.raises(FileNotFoundError, match="run the job first"):
        open_result(str(tmp_path / "a"))
    ResultStore(str(tmp_path / "a")).create(SPEC)
    ResultStore(str(tmp_path / "b")).create(SPEC)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_scratch_is_removed_by_finish(tmp_path: Path) -> None:
    work = WorkDir(str(tmp_path))
    work.claim({"tile": 224})
    store = ResultStore(str(tmp_path)).create(SPEC)
    store.write("scratch", 0, Window(0, 0, 64, 64), np.full((64, 64), 7, np.uint32))
    assert int(ResultStore(str(tmp_path)).array("scratch")[10, 10]) == 7
    work.finish()
    assert not (tmp_path / ".fewscope" / "scratch.zarr").exists()
    with pytest.raises(FileNotFoundError):
        ResultStore(str(tmp_path)).array("scratch")


def test_a_full_disk_is_one_line_with_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore(str(tmp_path)).create(SPEC)
    store.write("semantic", 0, Window(0, 0, 64, 64), np.ones((64, 64), np.uint8))

    def full(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="free some space and run the same command again") as caught:
        store.write("semantic", 0, Window(0, 0, 64, 64), np.ones((64, 64), np.uint8))
    assert "\n" not in str(caught.value)


def test_open_result_is_lazy_and_whole(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no result\.zarr"):
        open_result(str(tmp_path))
    store = ResultStore(str(tmp_path)).create(SPEC)
    _write_column(store, 64)
    pq.write_table(pa.table({"id": [1, 2], "area_px": [5, 50]}), tmp_path / "instances.parquet")
    (tmp_path / "report.json").write_text(json.dumps({"count": 2}))
    result = open_result(str(tmp_path))
    assert result.spec == SPEC
    assert [level.shape for level in result.semantic] == [(150, 1100), (75, 550), (38, 275)]
    assert result.instances[0].chunksize == (64, 64)
    assert {level.dtype.name for level in result.probability} == {"uint8"}
    assert int((result.instances[0] > 0).sum().compute(scheduler="synchronous")) == 150 * 64
    assert result.table.to_table(filter=pa.compute.field("area_px") > 10).to_pydict() == {
        "id": [2],
        "area_px": [50],
    }
    assert result.report == {"count": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": 48}, "not a multiple of chunk 32"),
        ({"chunk": 31}, "not even"),
        ({"height": 0}, "empty"),
        ({"scale": (0.5, 0.0)}, "not positive"),
    ],
)
def test_a_wrong_geometry_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoreSpec(**{"height": 10, "width": 10, "shard": 64, "chunk": 32} | change)


def test_a_label_of_a_coarse_level_is_drawn_round_the_pixel_it_shows() -> None:
    transform = Affine(0.5, 0, 1000, 0, -0.5, 2000)
    coarse = SPEC.labels_transform(transform, 3)
    for row, col in [(0, 0), (5, 9)]:
        assert coarse @ (col + 0.5, row + 0.5) == pytest.approx(transform @ (8 * col + 0.5, 8 * row + 0.5))
    assert SPEC.labels_transform(transform, 0) == transform


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_bucket("slides") as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("where", ["memory", "s3"])
def test_a_run_on_an_object_store(where: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base = f"memory://{tmp_path.name}" if where == "memory" else request.getfixturevalue("bucket")
    out = f"{base}/runs/first"
    work = WorkDir(out)
    with work.hold(), pytest.raises(RunInUse, match="is in use by process"), WorkDir(out).hold():
        pass
    with WorkDir(out).hold():  # released
        assert work.claim({"tile": 224}) == "new"
    spec = StoreSpec(height=70, width=128, shard=64, chunk=32)
    store = pickle.loads(pickle.dumps(ResultStore(out).create(spec)))
    block = np.ones((64, 128), np.uint8)
    store.write("semantic", 0, Window(0, 0, 128, 64), block)
    block[:, 64:] = 0
    store.write("semantic", 0, Window(0, 0, 128, 64), block)
    work.write_marker("u0", {"n": 1})
    work.save_arrays("u0", top=np.arange(3))

    assert WorkDir(out).claim({"tile": 224}) == "resume"
    assert work.read_markers() == {"u0": {"n": 1}}
    ResultStore(out).create(spec)  # resumes
    assert int(open_result(out).semantic[0].sum().compute(scheduler="synchronous")) == 64 * 64
    with pytest.raises(RunMismatch, match="tile: was 224, now 192"):
        WorkDir(out).claim({"tile": 192})
    work.finish()
    with pytest.raises(FileNotFoundError):
        work.load_arrays("u0")
    assert WorkDir(out).claim({"tile": 224}) == "finished"
    assert WorkDir(out).claim({"tile": 192}, overwrite=True) == "new"
    with pytest.raises(FileNotFoundError):
        open_result(out)


def test_a_bucket_that_is_not_there_is_one_line(bucket: str) -> None:
    with pytest.raises(OutputError, match="check the location") as caught:
        WorkDir("s3://no-such-bucket/out").claim({"tile": 224})
    assert "\n" not in str(caught.value)
