"""The notebooks of docs/notebooks run from top to bottom, show pictures, and come to the results that they describe."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(name: str, folder: Path) -> tuple[str, int]:
    """Printed text and number of pictures of a notebook that ran."""
    pytest.importorskip("nbclient", reason="needs the extra: pip install -e '.[docs]'")
    out = folder / f"{name}.ipynb"
    command = [sys.executable, "docs/execute_notebook.py", f"docs/notebooks/{name}.md", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [output for cell in json.loads(out.read_text())["cells"] for output in cell.get("outputs", [])]
    text = "".join("".join(output.get("text", "")) for output in outputs if output.get("name") == "stdout")
    return text, sum("image/png" in output.get("data", {}) for output in outputs)


def number(pattern: str, text: str) -> float:
    """The number that the pattern's group finds in a text."""
    match = re.search(pattern, text)
    assert match, text
    return float(match[1].replace(",", ""))


def test_count_nuclei(tmp_path):
    text, n_pictures = run("count_nuclei", tmp_path)
    assert number(r"([\d,]+) nuclei found", text) > 0
    estimate = number(r"estimated true number ([\d,]+)", text)
    low, high = number(r"interval ([\d,]+) to", text), number(r"interval [\d,]+ to ([\d,]+)", text)
    assert low <= estimate <= high
    assert number(r"estimated IoU ([\d.]+)", text) > 0.5
    assert n_pictures == 3


def test_map_river(tmp_path):
    """Within the bounds that the demo's truth sets: area 5 %, length and width 10 %."""
    text, n_pictures = run("map_river", tmp_path)
    found = [
        number(rf"{name}", text)
        for name in (r"([\d.]+) km2 of water", r"main channel ([\d.]+)", r"width ([\d.]+) m")
    ]
    true = [
        number(name, text) for name in (r"true: ([\d.]+) km2", r"([\d.]+) km long", r"long, ([\d.]+) m wide")
    ]
    assert found == [pytest.approx(t, rel=r) for t, r in zip(true, (0.05, 0.1, 0.1), strict=True)]
    assert number(r"IoU ([\d.]+)", text) > 0.9
    assert n_pictures == 3
