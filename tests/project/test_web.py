"""The page of ``fewscope annotate``: types, the tests of its logic, what its bundle and lock file hold."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.helpers.machine import ROOT

WEB = ROOT / "web"
STATIC = ROOT / "annotate" / "static"


def tasks(name: str) -> subprocess.CompletedProcess[str]:
    """Run a task of ``web/tasks.py``; skip where its packages are not installed, except in CI."""
    installed = WEB / "node_modules" / ".installed"
    lock = WEB / "package-lock.json"
    ready = installed.is_file() and installed.read_bytes() == lock.read_bytes()
    if not ready and os.environ.get("CI") != "true":
        pytest.skip("the packages of web/ are not installed: make web")
    return subprocess.run([sys.executable, WEB / "tasks.py", name], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check", "test"])
def test_types_and_logic_of_the_page(name):
    done = tasks(name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lock_file_holds_hashes_and_no_address_of_a_registry():
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"]
    assert "node_modules/ol" in packages
    for name, package in packages.items():
        assert "resolved" not in package, name
        if name:
            assert package["integrity"].startswith("sha512-"), name


def test_versions_of_the_page_s_packages_are_exact():
    stated = json.loads((WEB / "package.json").read_text())
    for name, version in {**stated["dependencies"], **stated["devDependencies"]}.items():
        assert re.fullmatch(r"\d+(\.\d+\.\d+)?", version), f"{name}: {version}"


def test_what_is_bundled_is_named_in_the_notice():
    notice = (ROOT / "NOTICE").read_text()
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"]
    bundled = {"ol", "rbush", "quickselect"}
    assert bundled <= {name.removeprefix("node_modules/") for name in packages}
    for name in bundled:
        assert f"(npm: {name})" in notice
    if (STATIC / "app.js").is_file():  # the readers of files that the page does not use are not in it
        text = (STATIC / "app.js").read_text()
        for left_out in ("GeoTIFF", "zarrita", "earcut"):
            assert left_out not in text, left_out


def test_page_loads_nothing_from_other_hosts_and_holds_no_inline_code():
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"\b(?:src|href)=\"(?!/static/)", page)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=", page)


def test_sources_write_text_as_text():
    """No markup is ever made of strings: names of files and classes come from outside."""
    for path in sorted(WEB.glob("src/**/*.ts")):
        found = re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()
        )
        assert not found, f"{path.name}: {found.group()}"
