"""The site of `make docs`: it builds without a warning, and its pages load nothing from other hosts."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built site. Warnings, such as a broken link or a parameter that does not exist, are errors."""
    pytest.importorskip("mkdocstrings", reason="needs the extra: pip install -e '.[docs]'")
    subprocess.run(["make", "-s", "build/typed"], cwd=ROOT, check=True)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


def test_every_package_has_a_page_of_reference(site):
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for package in set(packages) - {"fewscope"}:
        page = (site / "api" / f"{package}.html").read_text()
        modules = (ROOT.joinpath(*package.split(".")[1:])).glob("*.py")
        for module in {path.stem for path in modules} - {"__init__"}:
            assert f'id="{package}.{module}"' in page, f"{package}.{module} is not in the reference"


def test_pages_load_nothing_from_other_hosts(site):
    loaded = (
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*\bhref=\"?(?:https?:)?//"
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        found = re.search(loaded, page.read_text())
        assert not found, f"{page.relative_to(site)}: {found.group()}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]?https?:", style.read_text()), (
            style.name
        )
