"""The command as users run it: a program, with the shipped model, on this machine and as a job of a Ray cluster."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewscope.jobs import segment_wsi
from fewscope.model.views import SIDES_OF
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.plan import model_loader
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.machine import ROOT

JOB = str(ROOT / "jobs/segment_wsi.py")


@pytest.fixture(scope="module", autouse=True)
def there_are_weights():
    model_loader(fakes.SegmentConfig("", "", ""))()  # fails with its own words where none ship


def command(slide, support, out, *flags) -> list[str]:
    return [JOB, str(slide), "--support", str(support), "--out", str(out), "--adapt", "0", *flags]


def call(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=240, **options
    )


@pytest.fixture
def job(capfd, caplog):
    """``job(slide, support, out, *flags)`` in this process: (exit code, stdout and the log, stderr)."""
    caplog.set_level("INFO")

    def run(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        code = segment_wsi.main(command(*arguments)[1:])
        said, errors = capfd.readouterr()
        return code, said + caplog.text, errors

    return run


@pytest.mark.slow
def test_a_run_its_repetition_and_a_refusal(slide, support, tmp_path, job):
    """Programs with the shipped network; nothing on stderr but errors, from anywhere on the disk."""
    run = command(slide, support, tmp_path / "out", "--local")
    first = call(*run, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert f"{report['count']:,} blob" in first.stdout
    assert str(tmp_path / "out/report.html") in first.stdout
    assert re.search(r"\d+ of \d+ tiles \(100%\), [\d.]+ tiles/s, .*model busy \d+%", first.stdout)
    page = (tmp_path / "out/report.html").read_text()
    assert f"{report['count']:,}" in page
    assert page.count("data:image/jpeg") >= 3  # the real pictures
    assert re.fullmatch("[0-9a-f]{64}", report["run"]["model"]["SHA-256 of the weights"])

    code, said, errors = job(slide, support, tmp_path / "out", "--local")
    assert (code, errors) == (0, "")
    assert "already finished" in said

    refused = call(*run, "--overlap", "0", "-v", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert "overlap: was 32, now 0" in refused.stderr
    assert "Traceback" in refused.stdout  # -v: in the log


@pytest.mark.slow
def test_fine_tuning_is_said_and_reported(
    slide, support, tmp_path, job, no_pictures, quick_texture, monkeypatch
):
    """Two steps of it, where a job makes as many as there are seconds for, at one scale beside the usual."""
    monkeypatch.setattr("fewscope.model.finetune.MOST_STEPS", 2)
    monkeypatch.setitem(SIDES_OF, 1, (64,))
    monkeypatch.setattr("fewscope.pipeline.calibration.model_selection.OTHER_SIDES", {1: ((96,),)})
    code, said, errors = job(slide, support, tmp_path / "out", "--local", "--adapt", "40")
    assert (code, errors) == (0, "")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["run"]["options"]["adaptation"]
    assert re.search(r"held-out patches, network replaced by a pixel classifier: IoU 0\.\d+", said)
    assert re.search(r"kept: network .*, IoU of held-out patches 0\.\d+", said)


@pytest.mark.slow
def test_estimate_writes_nothing(slide, support, tmp_path, capfd):
    code = segment_wsi.main(command(slide, support, tmp_path / "out", "--estimate")[1:])
    said = capfd.readouterr().out
    assert code == 0
    assert "600 x 500 px" in said
    assert re.search(r"9 of 9 tiles have foreground", said)
    assert not (tmp_path / "out").exists()


def test_two_classes_are_counted_in_one_run(slide, tmp_path, job, no_pictures, monkeypatch):
    """A folder of support sets, one for each class; and one class of it by name."""
    monkeypatch.setattr("fewscope.jobs.segmenting.model_loader", lambda config: fakes.ByExample)
    for name, invert in (("blob", False), ("ground", True)):
        fakes.write_support(tmp_path / "support" / name, invert=invert)
        (tmp_path / "support" / name / "support.json").write_text('{"mpp": 0.5}')
    both = tmp_path / "support", tmp_path / "both", "--local", "--class-probabilities"
    code, said, errors = job(slide, *both)
    assert (code, errors) == (0, "")
    report = json.loads((tmp_path / "both/report.json").read_text())
    blob, ground = report["classes"]
    assert (blob["name"], ground["name"]) == ("blob", "ground")
    assert blob["covered_px"] + ground["covered_px"] > 0.9 * 500 * 600
    assert f"{report['count']:,} objects found: {blob['count']:,} blob, {ground['count']:,} ground" in said
    assert (tmp_path / "both/result.zarr/classes/2/zarr.json").exists()

    one = tmp_path / "support", tmp_path / "one", "--class", "ground", "--local", "--outlines", "none"
    code, _, errors = job(slide, *one)
    assert (code, errors) == (0, "")
    assert json.loads((tmp_path / "one/report.json").read_text())["class_name"] == "ground"
    code, _, errors = job(slide, tmp_path / "support", tmp_path / "none", "--class", "sky", "--local")
    assert code == 2
    assert "'sky', only blob, ground" in errors


def test_slides_of_one_name_get_folders_of_their_own():
    args = segment_wsi.parse(["a/x.svs", "b/x.svs", "c/y.svs", "--support", "s", "--out", "o/"])
    assert [config.out for config in segment_wsi.configs(args)] == ["o/x-1", "o/x-2", "o/y"]


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_resumes(slide, support, tmp_path, no_pictures):
    path = tmp_path / "config.json"
    out, log = tmp_path / "out", tmp_path / "log"
    path.write_text(json.dumps({"source": slide, "support": support, "out": str(out), "shard": 256}))
    job = subprocess.Popen(
        [sys.executable, fakes.__file__, path, "local", log, "2"],
        stderr=subprocess.DEVNULL,
        # a shell's background jobs ignore Ctrl-C, and so would what they start
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    limit = time.monotonic() + 120
    while not list(out.glob(".fewscope/markers/r*.json")):
        assert time.monotonic() < limit
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    assert job.wait(60) != 0
    done = len(list(out.glob(".fewscope/markers/r*.json")))
    assert 1 <= done < 6
    with LocalPool(functools.partial(fakes.Slow, str(log), 0)) as pool:
        segment(fakes.SegmentConfig(**json.loads(path.read_text())), pool, fakes.ByColour())
    assert (out / "report.json").exists()


# --- as a job of a Ray cluster that asks for a token -------------------------------------------------------


def submit(head, environment=None, *arguments) -> subprocess.CompletedProcess:
    ray = str(Path(sys.executable).with_name("ray"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [ray, "job", "submit", "--address", head.dashboard, *map(str, arguments)],
        env=env | (environment or {}),
        capture_output=True,
        text=True,
        timeout=280,
        cwd=arguments[1] if arguments else None,
    )


CLONE = "0+clone"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The folders that a job needs, as a clone has them; of a version of its own."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("connectors", "fewscope", "model", "pipeline", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "fewscope/_version.py").write_text(f'__version__ = "{CLONE}"\n')
    return folder


def test_ray_job_submit(ray_head, clone, slide, support, tmp_path):
    """Fewscope is not installed where Ray runs: driver and workers have it from the working directory alone."""
    token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    run = ["python", *command(slide, support, tmp_path / "out", "--workers", "1")]
    run[1] = "jobs/segment_wsi.py"
    job = submit(ray_head, token, "--working-dir", clone, "--", *run)
    log = job.stdout + job.stderr
    assert job.returncode == 0, log
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert f"{report['count']:,} blob" in log
    assert re.search(r"\d+ of \d+ tiles \(100%\), .*tiles/s", log)
    assert "1 workers requested from Ray" in log
    assert "succeeded" in log
    assert report["run"]["work"]["workers"] == 1
    assert report["run"]["versions"]["fewscope"] == CLONE


def test_without_the_token_no_job_is_taken(ray_head, clone):
    job = submit(ray_head, {"RAY_AUTH_MODE": "disabled"}, "--working-dir", clone, "--", "python", "-V")
    assert job.returncode != 0
    assert re.search(r"401|[Uu]nauthor|authenticat|token", job.stdout + job.stderr)
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    job = submit(ray_head, wrong, "--working-dir", clone, "--", "python", "-V")
    assert job.returncode != 0
    assert "succeeded" not in job.stdout
