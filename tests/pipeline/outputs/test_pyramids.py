"""Pyramids: every level is the exact halving of the full image, whoever computes it, in bounded memory."""

import tracemalloc
from pathlib import Path

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.windows import Window

from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.pipeline.outputs.pyramids import (
    NAMES,
    build_pyramids,
    halve_labels,
    halve_mean,
    make_shard,
    pyramid_graph,
)

SPEC = StoreSpec(height=181, width=1101, shard=128, chunk=64)  # levels of 1101, 551, 276 px, odd edges


def filled(out: Path, seed: int = 0) -> tuple[ResultStore, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    store = ResultStore(str(out)).create(SPEC)
    images = {
        "probability": rng.integers(0, 256, (181, 1101), dtype=np.uint8),
        "semantic": rng.integers(0, 2, (181, 1101), dtype=np.uint8),
        "instances": rng.integers(0, 2**32, (181, 1101), dtype=np.uint32),
    }
    for name in NAMES:
        images[name][:, 384:640] = 0  # some shards are empty, and have no file
        store.write(name, 0, Window(0, 0, 1101, 181), images[name])
    return store, images


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_mean_is_that_of_the_pixels_there_are(image: np.ndarray) -> None:
    halved = halve_mean(image)
    assert halved.shape == (-(-image.shape[0] // 2), -(-image.shape[1] // 2))
    for (row, col), value in np.ndenumerate(halved):
        block = image[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].astype(int)
        assert value == int(np.floor(block.sum() / block.size + 0.5))  # exact: sums below 1021


def test_every_level_is_the_halving_of_the_whole_image(tmp_path: Path) -> None:
    store, images = filled(tmp_path)
    build_pyramids(str(tmp_path), scheduler="synchronous")
    for name in NAMES:
        expected = images[name]
        for level in range(1, SPEC.levels):
            expected = halve_mean(expected) if name == "probability" else expected[::2, ::2]
            np.testing.assert_array_equal(store.array(name, level)[:], expected, err_msg=f"{name} {level}")
    top = images["instances"][:: 2 ** (SPEC.levels - 1), :: 2 ** (SPEC.levels - 1)]
    np.testing.assert_array_equal(store.array("instances", SPEC.levels - 1)[:], top)


@pytest.mark.slow
def test_threads_and_a_given_scheduler_write_the_same_bytes(tmp_path: Path) -> None:
    calls = []

    def get(graph: object, keys: object, **kwargs: object) -> object:
        calls.append(keys)
        return dask.get(graph, keys, **kwargs)

    for scheduler, name in [("synchronous", "a"), ("threads", "b"), (get, "c")]:
        filled(tmp_path / name)
        build_pyramids(str(tmp_path / name), scheduler=scheduler)
    assert calls
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")


def test_a_task_that_runs_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    filled(tmp_path)
    build_pyramids(str(tmp_path), scheduler="synchronous")
    before = files(tmp_path)
    make_shard(str(tmp_path), "instances", 1, 0, 3)
    make_shard(str(tmp_path), "semantic", 2, 0, 0)
    assert files(tmp_path) == before


def test_one_task_is_one_shard_and_waits_for_those_it_reads(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    graph = pyramid_graph(store, ["semantic"])
    # 91 x 551 px: 1 x 5 shards of 128; 46 x 276 px: 1 x 3 shards.
    assert len(graph) == 8
    dependencies = {task.key: set() for task in graph}
    for task in graph:
        for key, other in dict(task.__dask_graph__()).items():
            dependencies[key] = set(other.dependencies)
    assert dependencies["pyramid-semantic-1-0-0"] == set()
    assert dependencies["pyramid-semantic-2-0-0"] == {"pyramid-semantic-1-0-0", "pyramid-semantic-1-0-1"}
    assert dependencies["pyramid-semantic-2-0-2"] == {"pyramid-semantic-1-0-4"}


@pytest.mark.slow
def test_memory_is_one_shard_and_a_strip(tmp_path: Path) -> None:
    spec = StoreSpec(height=2048, width=2048, shard=1024, chunk=128)
    store = ResultStore(str(tmp_path)).create(spec)
    rows, cols = np.indices((2048, 2048))
    store.write("instances", 0, Window(0, 0, 2048, 2048), (rows // 8 * 256 + cols // 8).astype(np.uint32))
    del rows, cols
    make_shard(str(tmp_path), "instances", 1, 0, 0)  # what is imported and cached does not count
    tracemalloc.start()
    try:
        make_shard(str(tmp_path), "instances", 1, 0, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    shard, block = 1024 * 1024 * 4, 2048 * 2048 * 4
    assert peak < 2.5 * shard < block


def test_a_small_image_has_no_pyramid(tmp_path: Path) -> None:
    ResultStore(str(tmp_path)).create(StoreSpec(height=100, width=512, shard=128, chunk=32))
    assert build_pyramids(str(tmp_path)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (5, 4), (4, 5)])
def test_labels_keep_their_values(shape: tuple[int, int]) -> None:
    image = np.arange(shape[0] * shape[1], dtype=np.uint32).reshape(shape)
    assert halve_labels(image)[-1, -1] == image[(shape[0] - 1) // 2 * 2, (shape[1] - 1) // 2 * 2]
