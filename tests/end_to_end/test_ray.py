"""Ray does what one process does, byte for byte, and survives what one process cannot."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private.internal_api import memory_summary

from fewscope.connectors.results.store import ResultStore
from fewscope.errors import OutputError, WorkerError
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.execution.ray_pool import RayPool
from fewscope.pipeline.run import segment
from tests.helpers import fakes

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def split_config(slide, support):
    """Twenty units whose tiles blend, threshold chosen, touching objects split."""
    return fakes.SegmentConfig(slide, support, "", shard=128, instances="split", object_radius_um=3)


@pytest.fixture(scope="module")
def local(split_config, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch, LocalPool(fakes.ByPlace) as pool:
        patch.setattr("fewscope.pipeline.report.builder.draw", fakes.no_pictures)
        segment(dataclasses.replace(split_config, out=str(out)), pool, fakes.ByPlace())
    return fakes.outputs(out)


def test_three_workers_on_two_cpus_write_what_one_process_writes(ray_here, split_config, local, tmp_path):
    out = tmp_path / "out"
    with RayPool(fakes.ByPlace, 3) as three:
        report = segment(dataclasses.replace(split_config, out=str(out)), three, fakes.ByPlace())
    assert report["run"]["work"]["workers"] == 3
    same_files(fakes.outputs(out), local)


@pytest.fixture(scope="module")
def pool(ray_here) -> Iterator[RayPool]:
    """A worker for all tests below whose matter is not how workers start or end; it leaves a CPU to the others."""
    with RayPool(fakes.ByPlace, 1) as pool:
        yield pool


def test_a_worker_of_other_units_writes_what_one_process_writes(pool, split_config, local, tmp_path):
    out = tmp_path / "out"
    report = segment(dataclasses.replace(split_config, out=str(out), unit=256), pool, fakes.ByPlace())
    assert report["run"]["work"]["workers"] == 1
    same_files(fakes.outputs(out), local)


def same_files(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name] == expected[name], name


def test_a_worker_that_is_killed_is_replaced_and_its_unit_done_again(ray_here, config, tmp_path):
    flag = tmp_path / "died"
    with RayPool(functools.partial(fakes.DiesOnce, str(flag)), 1) as pool:
        segment(config, pool, fakes.ByColour())
    assert flag.read_text()  # the process id of the one that died
    with LocalPool(fakes.ByColour) as pool:
        segment(dataclasses.replace(config, out=str(tmp_path / "local")), pool, fakes.ByColour())
    assert fakes.outputs(Path(config.out)) == fakes.outputs(tmp_path / "local")


@pytest.fixture
def one_death(monkeypatch):
    """Each death is a process that has to start."""
    monkeypatch.setattr("fewscope.pipeline.execution.ray_pool.MAX_DEATHS", 1)
    monkeypatch.setattr("fewscope.pipeline.execution.attempts.MAX_DEATHS", 1)


def test_workers_that_always_die_end_the_job_with_one_line(ray_here, one_death, config):
    with RayPool(fakes.DiesAlways, 1) as pool, pytest.raises(WorkerError) as error:
        segment(config, pool, fakes.ByColour())
    assert "\n" not in str(error.value)
    assert "workers die whatever they do" in str(error.value)
    assert "same command" in str(error.value)


def test_a_model_that_cannot_be_loaded_there_ends_the_job_with_its_own_error(ray_here, config):
    with (
        RayPool(fakes.cannot_load, 1) as pool,
        pytest.raises(ValueError, match=r"^weights.safetensors: no such file"),
    ):
        segment(config, pool, fakes.ByColour())


def test_a_model_that_crashes_while_it_is_loaded_is_no_hang(ray_here, one_death, config):
    with RayPool(fakes.crashes_loading, 1) as pool, pytest.raises(WorkerError):
        segment(config, pool, fakes.ByColour())


def test_a_workers_error_is_the_error_as_it_was_raised(pool, config, monkeypatch):
    """Here: a file lies where the store's shards should be."""
    create = ResultStore.create

    def spoilt(self, *args, **options):
        created = create(self, *args, **options)
        (Path(config.out) / "result.zarr/0/c").write_text("in the way")
        return created

    monkeypatch.setattr(ResultStore, "create", spoilt)
    with pytest.raises(OutputError) as error:
        segment(config, pool, fakes.ByPlace())
    assert type(error.value) is OutputError  # and not Ray's, with a traceback for a text
    assert "\n" not in str(error.value)
    assert "a file is where a folder should be" in str(error.value)


def test_no_pixels_travel(pool, config, monkeypatch):
    """What goes through Ray is a small part of the pixels, and nothing is spilled."""
    sizes: dict[str, int] = {}

    def weigh(name, value):
        sizes[name] = sizes.get(name, 0) + len(pickle.dumps(value))
        return value

    put, get = ray.put, ray.get
    monkeypatch.setattr(
        "fewscope.pipeline.execution.ray_pool.ray.put", lambda value: put(weigh("put", value))
    )
    monkeypatch.setattr("fewscope.pipeline.execution.ray_pool.ray.get", lambda ref: weigh("got", get(ref)))
    segment(config, pool, fakes.ByPlace())
    n_pixels = fakes.HEIGHT * fakes.WIDTH
    assert sizes["got"] < 20_000  # rows of six units, and numbers
    assert sizes["put"] < 2.5 * n_pixels  # one job, with the mask of its foreground, on the overview's grid
    stats = memory_summary(stats_only=True)
    assert "Spilled" not in stats, stats


def test_several_slides_over_one_pool(pool, config, slide, tmp_path):
    other = fakes.write_slide(tmp_path / "other.tif", fakes.picture(300, 300, seed=1))
    pool.start()
    actors = list(pool._actors)
    counts = [
        segment(
            dataclasses.replace(config, source=source, out=str(tmp_path / str(k))), pool, fakes.ByPlace()
        )["count"]
        for k, source in enumerate([slide, other, slide])
    ]
    assert pool._actors == actors != []  # the same throughout
    assert counts[0] == counts[2] != counts[1]
