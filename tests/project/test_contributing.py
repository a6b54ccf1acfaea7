"""CONTRIBUTING.md shows the house as it is: import-linter's layers, and files and tables that exist."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
DRAWING = next(block for block in re.findall(r"```\n(.*?)```", TEXT, re.DOTALL) if "storage" in block)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = [contract for contract in CONTRACTS if contract["type"] == "layers"]


@pytest.mark.parametrize("contract", LAYERS, ids=lambda contract: contract["name"].split(":")[0])
def test_the_drawing_has_the_layers_from_top_to_bottom(contract):
    """Rooms of one layer are on one line, and no layer is above the one before it."""
    floor = re.match(r"fewscope\.(\w+)\.\w", contract["layers"][0])
    part = (
        DRAWING[DRAWING.index("connectors ") :] if floor and floor[1] in ("connectors", "model") else DRAWING
    )
    lines = part.splitlines()
    last = -1
    for layer in contract["layers"]:
        names = [re.sub(r"\w+_options", "*_options", name.split(".")[-1]) for name in layer.split(" | ")]
        shown = [
            i
            for i, line in enumerate(lines)
            if all(re.search(rf"(?<!\w){re.escape(n)}\b", line) for n in names)
        ]
        after = [i for i in shown if i >= last]
        assert after, f"{layer} is not one line of the drawing below the layer above it"
        last = after[0]


def test_files_and_tables_of_the_five_changes_exist():
    section = TEXT[TEXT.index("## Five typical changes") : TEXT.index("## What a change looks like")]
    for path in re.findall(r"`([\w/]+(?:/|\.py))`", section):
        places = [ROOT / path, ROOT / "model/networks" / path]
        assert any(place.exists() for place in places), f"{path} does not exist"
    tables = re.findall(r"`([A-Z_]+)`(?: or `([A-Z_]+)`)? (?:in|of) `([\w/.]+)`", section)
    assert len(tables) >= 5
    for first, second, file in tables:
        for name in filter(None, (first, second)):
            assert re.search(rf"^{name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {name}"
