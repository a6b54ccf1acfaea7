"""Two jobs that would write into one folder: the second one is refused before it does anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import fewscope.jobs.segmenting
from fewscope.connectors.results.run_lock import RunLock
from fewscope.connectors.results.unit_files import FOLDER
from fewscope.jobs import map_changes, train
from fewscope.model.training.job import TrainingJob

CHANGES = ["1990.tif", "2000.tif", "--support", "drawn.gpkg"]
TRAINING = ["--synthetic-only", "--steps", "1"]


@pytest.mark.parametrize(("job", "arguments"), [(map_changes, CHANGES), (train, TRAINING)])
def test_a_second_job_is_refused_in_one_line(
    job, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with RunLock(str(tmp_path), FOLDER):
        assert job.main([*arguments, "--out", str(tmp_path)]) == 2
        assert sorted(path.name for path in tmp_path.rglob("*")) == [FOLDER, "lock.json"]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path} is in use by process {os.getpid()}")


@pytest.mark.parametrize(("job", "arguments"), [(map_changes, CHANGES), (train, TRAINING)])
def test_the_folder_is_held_while_the_job_works_and_free_when_it_has_failed(
    job, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def work(*_: object) -> int:
        held.append((tmp_path / FOLDER / "lock.json").exists())
        raise ValueError("no more than that")

    monkeypatch.setattr(fewscope.jobs.segmenting, "run_all", work)
    monkeypatch.setattr(TrainingJob, "run", work)
    assert job.main([*arguments, "--out", str(tmp_path)]) == 2
    assert held == [True]
    assert not list(tmp_path.iterdir())
