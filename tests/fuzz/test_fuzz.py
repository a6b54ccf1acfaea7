"""The short form of `python -m tests.fuzz`: the same cases each time. And that the harness notices what is wrong."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
from hypothesis import strategies as st

import fewscope.jobs.segmenting
from fewscope.errors import SourceError
from fewscope.jobs import segment_wsi
from tests.fuzz import harness
from tests.fuzz.annotations import map_annotations
from tests.fuzz.harness import Case, Kind, fault_of, fault_of_message, run_kind, try_cases
from tests.fuzz.kinds import KINDS
from tests.helpers import fakes

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries may warn of odd files; jobs do not show it

IN_PROCESS = [kind for kind in KINDS if kind.name not in ("slides", "vrt")]
"""A fault in OpenSlide or GDAL takes its process along: slides and VRTs are read in children alone."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", IN_PROCESS, ids=[kind.name for kind in IN_PROCESS])
def test_read_or_refused_in_one_line(kind, tmp_path, caplog):
    faults: list[str] = []
    caplog.set_level(logging.CRITICAL)  # the remarks of libraries on odd files would bury a fault

    def check(case: Case) -> None:
        fault = fault_of(kind, case, tmp_path / "case")
        if fault:
            faults.append(fault)

    try_cases(kind, 0, kind.examples, check)
    assert not faults, "\n".join(sorted(set(faults)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slides", "rasters"])
def test_within_limits_of_memory(name, tmp_path):
    """In a child with a limit of memory: nothing crashes, hangs, or takes too much."""
    count = run_kind(name, tmp_path, seconds=0, n_examples=25)
    assert count.tried > 0
    assert not count.faults, count.faults


@pytest.mark.usefixtures("no_pictures")
def test_an_error_in_one_source_does_not_stop_the_others(monkeypatch, capfd, tmp_path, slide, support):
    monkeypatch.setattr(fewscope.jobs.segmenting, "model_loader", lambda config: fakes.ByColour)
    broken = [tmp_path / name for name in ("empty.tif", "picture.tif", "cut.tif")]
    broken[0].write_bytes(b"")
    broken[1].write_text("no picture")
    broken[2].write_bytes(Path(slide).read_bytes()[:2000])
    last = fakes.write_slide(tmp_path / "last.tif")
    sources = [slide, *map(str, broken), last]
    common = ["--support", support, "--out", str(tmp_path / "out"), "--local", "--threshold", "0.5"]
    assert segment_wsi.main([*sources, *common, "--instances", "components"]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == len(broken), errors
    for path, line in zip(broken, errors, strict=True):
        assert line.startswith("error: ")
        assert str(path) in line
    for whole in (slide, last):
        assert (tmp_path / "out" / Path(whole).stem / "report.html").exists()


# --- the harness itself ---------------------------------------------------------------------------------

CASE = Case({"a.tif": b"a"}, "a.tif")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("deep inside"), "ValueError"),
        (MemoryError(), "MemoryError"),
        (SourceError("no name"), "does not name the file"),
        (SourceError("FILE: long " + "a" * 5000), "characters"),
    ],
)
def test_what_is_a_fault(error, words, tmp_path):
    def use(path, _options):
        raise type(error)(*(str(arg).replace("FILE", str(path)) for arg in error.args))

    assert words in (fault_of(Kind("a", lambda: st.just(CASE), use, 1), CASE, tmp_path / "case") or "")


def test_messages_that_are_not_one_line(tmp_path):
    assert "not one line" in (fault_of_message(f"{tmp_path}: two\nlines", tmp_path) or "")
    assert "control characters" in (fault_of_message(f"{tmp_path}: red \x1b[31m", tmp_path) or "")


def test_texts_of_files_do_not_break_the_line():
    assert str(SourceError("a\udcff\x1b.tif: two\nlines")) == "a\\udcff\\x1b.tif: two lines"


def test_what_is_none(tmp_path):
    assert fault_of_message(f"{tmp_path}/a.tif: is empty; copy it again", tmp_path) is None
    assert fault_of(Kind("a", lambda: st.just(CASE), lambda *_: None, 1), CASE, tmp_path / "case") is None


def test_cases_are_the_same_each_time(tmp_path):
    kind = Kind("a", map_annotations, lambda *_: None, 5)
    found: list[list[Case]] = [[], []]
    for cases in found:
        try_cases(kind, 0, 5, cases.append)
    assert found[0] == found[1]
    assert len(found[0]) == 5


@pytest.mark.parametrize("ends", ["crash", "hang"])
def test_a_child_that_dies_or_hangs_is_a_fault(ends, tmp_path, monkeypatch):
    """The process that a round starts, replaced by one that begins a case and does not end it."""
    line = 'import sys, time, os; print(\'{"state": "begin", "seed": 7}\', flush=True); '
    line += "os.abort()" if ends == "crash" else "time.sleep(60)"
    started = harness.subprocess.Popen

    def instead(command, **options):
        return started([command[0], "-c", line], **options)

    monkeypatch.setattr(harness.subprocess, "Popen", instead)
    monkeypatch.setattr(harness, "SILENT_SECONDS", 2.0)
    current = tmp_path / "current" / "a"
    CASE.write(current)
    count = run_kind("a", tmp_path, seconds=0)
    assert (count.tried, count.held) == (1, 0)
    (kept,) = next(iter(count.faults.values()))
    assert str(-signal.SIGABRT) in kept if ends == "crash" else "nothing for" in kept
    folder = tmp_path / kept.partition(":")[0]
    assert sorted(os.listdir(folder)) == ["FAULT.txt", "a.tif"]
    assert "seed 7" in (folder / "FAULT.txt").read_text()
