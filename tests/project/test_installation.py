"""Fewscope as a wheel, an sdist, an editable install, and a checkout in which it is not installed at all.

Each in an environment of its own, to which the packages of this one are lent. What each writes are the same bytes, and
each module is there once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fewscope
from fewscope.jobs import segment_wsi
from tests.helpers import fakes
from tests.helpers.environments import lent_environment, own_packages
from tests.helpers.machine import ROOT

pytestmark = pytest.mark.slow

UV = Path(sys.executable).with_name("uv")
FLOORS = ("annotate", "connectors", "jobs", "model", "pipeline")
DATA = ("fewscope/py.typed", "fewscope/model/weights/", "fewscope/pipeline/report/templates/")


def uv(*arguments: object) -> None:
    done = subprocess.run([UV, *map(str, arguments), "--offline"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def clone(folder: Path) -> Path:
    """The checkout without what builds and installations left in it."""
    for name in ("fewscope", *FLOORS):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """What is built and installed."""
    return clone(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, source)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@dataclass(frozen=True)
class Installed:
    """An environment with Fewscope in it, and what was installed."""

    python: Path
    kind: str

    @property
    def packages(self) -> Path:
        return own_packages(self.python.parents[1])


@pytest.fixture(scope="module", params=["wheel", "sdist", "editable"])
def installed(request, source, built, tmp_path_factory) -> Installed:
    folder = tmp_path_factory.mktemp(request.param)
    python = lent_environment(folder)
    sdist, wheel = built
    what = {"wheel": [wheel], "sdist": [sdist], "editable": ["-e", source]}[request.param]
    uv("pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", *what)
    return Installed(python, request.param)


def names_in(archive: Path) -> set[str]:
    """Files of a wheel or sdist, without the folder that the latter puts them in."""
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as packed:
        return {name.partition("/")[2] for name in packed.getnames()}


def answer(python: Path, program: str, *arguments: object, cwd: Path) -> Any:
    """What a program prints as the JSON of its last line; ``-I``: nothing is imported from the folder it runs in."""
    done = subprocess.run(
        [python, "-I", "-c", program, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_wheel_and_sdist_hold_the_package_and_its_data(built):
    sdist, wheel = map(names_in, built)
    assert {name.split("/")[0] for name in wheel} == {
        "fewscope",
        f"fewscope-{fewscope.__version__}.dist-info",
    }
    for name in DATA:
        assert any(found.startswith(name) for found in wheel), f"{name} is not in the wheel"
    modules = {
        f"fewscope/{path.relative_to(ROOT)}" for floor in FLOORS for path in (ROOT / floor).rglob("*.py")
    }
    assert modules <= wheel
    assert {"pyproject.toml", "README.md", "LICENSE"} <= sdist


IMPORTS = """
import importlib, importlib.metadata, json, sys
import fewscope
torch = "torch" in sys.modules
found = []
for name in ("annotate", "connectors", "jobs", "model", "pipeline"):
    try:
        importlib.import_module(name)
        found.append(name)
    except ModuleNotFoundError:
        pass
print(json.dumps([torch, found, fewscope.__version__, importlib.metadata.version("fewscope")]))
"""


def test_one_name_is_installed_and_importing_it_loads_no_torch(installed, tmp_path):
    names = {path.name for path in installed.packages.iterdir()} - {"lent.pth", "__pycache__"}
    own = f"fewscope-{fewscope.__version__}.dist-info"
    if installed.kind == "editable":
        assert own in names
        assert all(name.startswith(("__editable__", "fewscope-")) for name in names)
    else:
        assert names == {"fewscope", own}
    torch, found, version, of_metadata = answer(installed.python, IMPORTS, cwd=tmp_path)
    assert not torch
    assert found == []
    assert version == of_metadata == fewscope.__version__
    asked = [installed.python, "-I", "-m", "fewscope.jobs.segment_wsi", "--version"]
    assert fewscope.__version__ in subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True).stdout


RUN = """
import json, sys
stand_ins, *arguments = sys.argv[1:]
import fewscope.jobs.segmenting, fewscope.pipeline.report.builder
from fewscope.jobs import segment_wsi
sys.path.insert(0, stand_ins)
from tests.helpers import fakes
fewscope.jobs.segmenting.model_loader = lambda config: fakes.ByColour
fewscope.pipeline.report.builder.draw = fakes.no_pictures
code = segment_wsi.main(arguments)
print(json.dumps([code, sorted(sys.modules), fewscope.jobs.segmenting.__file__]))
"""
FLAGS = ("--local", "--threshold", "0.5", "--instances", "components")


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> Path:
    """A folder from which the tests' stand-ins are imported, and nothing else."""
    folder = tmp_path_factory.mktemp("stand-ins")
    (folder / "tests/helpers").mkdir(parents=True)
    for name in ("__init__.py", "helpers/__init__.py", "helpers/fakes.py"):
        shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
    return folder


def test_an_installed_fewscope_writes_the_bytes_of_a_checkout(
    installed, source, stand_ins, slide, support, tmp_path, no_pictures, monkeypatch
):
    if installed.kind == "sdist":  # the wheel was made of it: these are its files
        return
    arguments = slide, "--support", support, "--out", tmp_path / "installed", *FLAGS
    code, modules, file = answer(installed.python, RUN, stand_ins, *arguments, cwd=tmp_path)
    assert code == 0
    assert file.startswith(str(source if installed.kind == "editable" else installed.packages))
    assert not {name.split(".")[0] for name in modules} & set(FLOORS)
    monkeypatch.setattr("fewscope.jobs.segmenting.model_loader", lambda config: fakes.ByColour)
    assert segment_wsi.main([slide, "--support", support, "--out", str(tmp_path / "checkout"), *FLAGS]) == 0
    assert fakes.outputs(tmp_path / "installed") == fakes.outputs(tmp_path / "checkout")


JOB = """
import json, runpy, sys
job, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = job
sys.path.insert(0, job.rpartition("/")[0])  # as `python jobs/segment_wsi.py` has it
try:
    runpy.run_path(job, run_name="__main__")
except SystemExit as ended:
    import importlib.metadata
    known = [d.name for d in importlib.metadata.distributions() if d.name == "fewscope"]
    print(json.dumps([ended.code, sorted(sys.modules), known]))
"""


def test_a_checkout_runs_where_nothing_but_its_dependencies_is_installed(tmp_path, support):
    """With the shipped network. That Ray's workers can do so too is tried where a job is submitted."""
    python = lent_environment(tmp_path / "environment")
    checkout = clone(tmp_path / "checkout")
    slide = fakes.write_slide(tmp_path / "small.tif", fakes.picture()[:224, :224])
    patch = Path(shutil.copytree(support, tmp_path / "patch"))
    for file in patch.glob("*/[12].png"):  # of one patch none is held out, which would take most of the time
        file.unlink()
    flags = ["--support", patch, "--out", tmp_path / "out", "--local", "--adapt", "0", "--threshold", "0.5"]
    code, modules, known = answer(python, JOB, checkout / "jobs/segment_wsi.py", slide, *flags, cwd=tmp_path)
    assert code == 0
    assert known == []
    assert "fewscope.pipeline.run" in modules
    assert not {name.split(".")[0] for name in modules} & set(FLOORS)
    versions = json.loads((tmp_path / "out/report.json").read_text())["run"]["versions"]
    assert versions["fewscope"] == fewscope.__version__
