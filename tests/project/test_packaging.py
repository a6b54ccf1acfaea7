"""What a fresh clone needs: pins that install anywhere, commands that exist, nothing of one machine in it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fewscope.jobs import segment_raster, segment_wsi

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
OWN_FILES = {"tests/project/test_packaging.py"}  # it names what it looks for


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def tracked_text() -> dict[str, str]:
    """Path -> text of every file that git tracks, without those that are not text."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listed.decode().split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content[:8192]:
            texts[name] = content.decode("utf-8")
    return texts


def test_constraints_are_names_and_exact_versions_only():
    """No URL, no path, no local build tag such as +cpu: they hold with any index and any build of torch."""
    for line in constraints():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    names = [normal(line.split("==")[0]) for line in constraints()]
    assert names == sorted(set(names)), "not sorted, or twice"


def test_every_dependency_is_pinned_to_a_version_it_allows():
    pins = dict(line.split("==") for line in constraints())
    pins = {normal(name): version for name, version in pins.items()}
    wanted = [*PROJECT["dependencies"], "uv"]
    extras = PROJECT["optional-dependencies"]
    wanted += [line for extra in extras.values() for line in extra]
    assert len(wanted) == len(set(wanted)), "a dependency is declared twice"
    for requirement in wanted:
        if together := re.fullmatch(r"fewscope\[([\w,]+)\]", requirement):  # an extra that includes others
            assert set(together[1].split(",")) <= extras.keys()
            continue
        asked = Requirement(requirement)
        assert normal(asked.name) in pins, f"{asked.name} is not in constraints.txt"
        pin = pins[normal(asked.name)]
        assert asked.specifier.contains(pin), (
            f"{asked.name}: pinned {pin}, pyproject.toml asks for {asked.specifier}"
        )


def test_every_room_is_in_the_package():
    listed = set(SETUPTOOLS["packages"])
    floors = [ROOT / name for name in ("annotate", "connectors", "jobs", "model", "pipeline")]
    rooms = {
        ".".join(("fewscope", *path.parent.relative_to(ROOT).parts))
        for floor in floors
        for path in floor.rglob("*.py")
    }
    assert listed == rooms | {"fewscope"}
    for floor in floors:
        for path in floor.rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_no_path_of_one_machine_and_no_registry_address():
    patterns = {
        "a path of one machine": r"(?<![\w.~:/-])/(?:work|root|Users|mnt/[a-z]+|private)/\w",
        "somebody's home": r"(?<![\w.~:/-])/home/(?!(?:ubuntu|ray)\b)\w",
        "a temporary folder": r"(?<![\w.~:/$-])/(?:tmp|var/tmp)/\w",
        "a registry's address": r"https?://(?:[\w.-]*pypi[\w.-]*|[\w.-]*pythonhosted[\w.-]*)\b"
        r"|--(?:extra-)?(?:index|find)-(?:url|links)",
    }
    found = [
        f"{name}: {match.group()!r} is {what}"
        for name, text in tracked_text().items()
        if name not in OWN_FILES
        for what, pattern in patterns.items()
        for match in re.finditer(pattern, text)
    ]
    assert not found, "\n".join(found)


def test_weights_are_safetensors_with_a_checksum():
    folder = ROOT / "model" / "weights"
    files = [path for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []
    tensors = [path for path in files if path.suffix == ".safetensors"]
    assert tensors, "no weights are shipped"
    for path in files:
        assert path.suffix in {".safetensors", ".json", ".md", ".txt"}, f"{path.name}: not safetensors"
    for path in tensors:
        size = int.from_bytes(path.read_bytes()[:8], "little")
        header = json.loads(path.read_bytes()[8 : 8 + size])
        assert any(name != "__metadata__" for name in header), f"{path.name} holds no tensor"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


UV = """#!/bin/sh
case "$*" in
    *--dry-run*) exit {reachable} ;;
    *) echo "uv $*" ;;
esac
"""
"""Says what it was called with; whether the index of the CPU builds answers is `reachable`'s exit status."""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI's build of torch is the one for CPUs")
@pytest.mark.parametrize(
    ("reachable", "variables", "backend", "said"),
    [
        (0, ["NVIDIA_DRIVER="], "cpu", "no NVIDIA driver here: the CPU build of torch"),
        (1, ["NVIDIA_DRIVER="], None, "no NVIDIA driver here, but the CPU builds of torch are out of reach"),
        (0, ["NVIDIA_DRIVER=there"], None, ""),
        (0, ["NVIDIA_DRIVER=", "TORCH_BACKEND=cu130"], "cu130", ""),
    ],
)
def test_setting_up_chooses_the_build_of_torch(tmp_path, reachable, variables, backend, said):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/uv").write_text(UV.format(reachable=reachable))
    (tmp_path / ".venv/bin/uv").chmod(0o755)
    # as a person calls it, also where these tests were called by make
    asked_by_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "TORCH_BACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in asked_by_make}
    done = subprocess.run(
        ["make", "setup", *variables],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, install = done.stdout.splitlines()
    assert re.findall(r"--torch-backend=(\S+)", install) == ([backend] if backend else [])
    assert install.endswith("-e .[all,dev]")
    assert len(lines) == bool(said)
    assert all(line.startswith(said) for line in lines)


def code_of(page: Path) -> str:
    """The fenced blocks and inline code of a page, as one text; continued lines joined."""
    text = page.read_text()
    blocks = re.findall(r"^\s*```\w*\n(.*?)^\s*```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return "\n".join([*blocks, *inline]).replace("\\\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_named_in_the_pages_exist(page):
    named = set(re.findall(r"(?:^|[`\s])make ([a-z]+)\b", code_of(page), re.MULTILINE))
    assert named <= make_targets(), f"{page.name} names {named - make_targets()}"


def test_readme_gives_the_two_commands_and_ci_runs_one_of_them():
    assert {"demo", "test"} <= make_targets()
    code = code_of(ROOT / "README.md")
    assert "make demo" in code
    assert "make test" in code
    assert re.findall(r"^\s*make\b.*?(?= 2>|$)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE) == [
        "make test"
    ]


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "Makefile", ROOT / "examples" / "rayjob.yaml"],
    ids=lambda page: page.name,
)
def test_options_of_the_segmenting_jobs_named_anywhere_exist(page):
    text = page.read_text() if page.suffix != ".md" else code_of(page)
    text = text.replace("\\\n", " ")
    if page.suffix == ".yaml":
        text = re.sub(r"\n {4,}(?=--)", " ", text)
    elif page.name == "Makefile":
        text += "".join(f"\njobs/segment_wsi.py {flags}" for flags in re.findall(r"_FLAGS \?= (.*)", text))
    for job, command in ((segment_wsi, "segment"), (segment_raster, "map")):
        name = job.PROG.removeprefix("python ")
        calls = re.findall(rf"(?:{re.escape(name)}|fewscope {command}\b)([^\n#|]*)", text)
        named = {option for call in calls for option in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", call)}
        existing = {option for action in job.parser()._actions for option in action.option_strings}
        unknown = named - existing
        assert not unknown, f"{page.name} names {sorted(unknown)}; {name} has {sorted(existing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_of_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_python_in_the_pages_is_python():
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            ast.parse(block, page.name)


def test_licence_is_apache_2():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_demo_support_set_has_five_regions_full_of_nuclei():
    """By hand drawn, so checked for slips of the hand: closed, inside the original picture, not crossing."""
    from shapely.geometry import box, shape

    features = json.loads((ROOT / "examples" / "ihc_nuclei.geojson").read_text())["features"]
    by_class: dict[str, list] = {}
    for feature in features:
        geometry = shape(feature["geometry"])
        assert geometry.is_valid, feature["id"]
        assert box(0, 0, 512, 512).covers(geometry), feature["id"]
        assert feature["properties"]["objectType"] == "annotation"
        by_class.setdefault(feature["properties"]["classification"]["name"], []).append(geometry)
    assert {name: len(shapes) for name, shapes in by_class.items()} == {"Region*": 5, "Nucleus": 109}
    assert len({feature["id"] for feature in features}) == len(features)
    for region in by_class["Region*"]:
        assert region.bounds[2] - region.bounds[0] == region.bounds[3] - region.bounds[1] == 112
        inside = [nucleus.intersection(region).area for nucleus in by_class["Nucleus"]]
        assert sum(area > 3 for area in inside) >= 12
        assert 0.1 < sum(inside) / region.area < 0.3
    for nucleus in by_class["Nucleus"]:
        assert any(nucleus.intersects(region) for region in by_class["Region*"]), "outside every region"
