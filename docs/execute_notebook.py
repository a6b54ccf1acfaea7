"""Run a notebook of docs/notebooks and write it with its outputs.

    python docs/execute_notebook.py docs/notebooks/count_nuclei.md build/notebooks/count_nuclei.ipynb

The notebooks are Markdown files (jupytext). Their cells run in docs/notebooks and import the Fewscope of this checkout.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. The error of a cell that fails ends it, with the cell's traceback."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", type=Path, help="notebook to run (.md)")
    parser.add_argument("out", type=Path, help="file to write (.ipynb)")
    chosen = parser.parse_args(arguments)
    notebook = jupytext.read(chosen.notebook)
    client = NotebookClient(
        notebook,
        timeout=280,  # s per cell
        kernel_name="python3",
        resources={"metadata": {"path": str(chosen.notebook.parent)}},
    )
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    client.execute(env={**os.environ, "PYTHONPATH": path})
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, chosen.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
