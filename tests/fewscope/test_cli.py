"""The command `fewscope`: its words, what it prints, and that it is the programs of jobs/."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

import fewscope
from fewscope import cli, doctor
from tests.helpers import fakes
from tests.helpers.machine import ROOT


def test_alone_it_shows_a_real_example_of_every_command(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    for name in cli.COMMANDS:
        (line,) = re.findall(rf"^ +fewscope {name} (.*)$", said, re.MULTILINE)
        assert cli.job_of(name).parse(shlex.split(line)).out
    (line,) = re.findall(r"^ +fewscope estimate segment (.*)$", said, re.MULTILINE)
    assert cli.job_of("segment").parse(shlex.split(line), only_estimate=True).estimate
    assert "fewscope doctor" in said


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_follows_the_command_that_was_typed(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: fewscope {name} ")
    assert re.search(rf"^    fewscope {name} ", said, re.MULTILINE)
    assert "jobs/" not in said
    assert cli.COMMANDS[name].job in {path.stem for path in (ROOT / "jobs").glob("*.py")}


def test_version_and_module(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"Fewscope {fewscope.__version__}\n"
    run = [sys.executable, "-m", "fewscope", "--version"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"Fewscope {fewscope.__version__}\n"


def test_the_overview_imports_nothing_heavy():
    code = "import sys; from fewscope.cli import main; main([]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not {"torch", "numpy", "ray", "rasterio"} & modules


@pytest.mark.parametrize(
    "words", [["segmant"], ["estimate"], ["estimate", "train"], ["--print-completion", "x"]]
)
def test_what_is_no_command_is_refused(words, capsys):
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out.startswith("usage: ") or said.err.startswith("error: ")


def test_estimate_needs_no_output_folder(slide, support, capsys, monkeypatch):
    monkeypatch.setattr("fewscope.jobs.segmenting.model_loader", lambda config: fakes.ByColour)
    assert cli.main(["estimate", "segment", slide, "--support", support]) == 0
    assert "9 of 9 tiles have foreground" in capsys.readouterr().out


def test_bash_completes_commands_and_options(capsys):
    assert cli.main(["--print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for word in (*cli.COMMANDS, "doctor", "estimate", "--min-area-um2", "--min-area-m2", "--baselines"):
        assert word in script
    assert "--rivals" not in script


def test_doctor_says_what_works_and_cures_what_does_not(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    for name in ("Fewscope", "Python", "torch", "CPU", "GPU", "OpenSlide", "GDAL", "Ray", "disk", "memory"):
        assert name in said
    assert said.endswith("The essentials work.\n")
    assert all(finding.cure for finding in doctor.examine() if not finding.works)


def test_doctor_fails_without_an_essential_package(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "ESSENTIAL", ("numpy", "no-such-package"))
    assert doctor.main() == 1
    said = capsys.readouterr().out
    assert re.search(r"MISSING no-such-package +not installed\n +pip install no-such-package", said)
    assert said.endswith("Not working: no-such-package\n")


def test_a_check_that_raises_does_not_end_the_others(monkeypatch):
    def broken():
        raise OSError("libgdal is missing")

    monkeypatch.setattr(doctor, "_gdal", broken)
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["GDAL"].value == "OSError: libgdal is missing"
    assert not found["GDAL"].works
    assert found["Ray"].works
