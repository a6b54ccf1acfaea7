"""Log of a training run: JSON lines, TensorBoard, a progress bar on a terminal, lines in a log."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torchvision.io import write_png
from tqdm import tqdm

from fewscope.model.atomic import atomic_file

log = logging.getLogger(__name__)


class RunLog:
    """Writes into the run's folder: ``log.jsonl``, ``tensorboard/``, ``predictions.png``.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    step : int
        Where the run resumes; rows of later steps, written by a killed run after its last checkpoint, are
        dropped.
    steps : int
        Steps of the whole run.
    """

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        self.folder = folder
        self.steps = steps
        drop_rows_after(folder / "log.jsonl", step)
        self._lines = (folder / "log.jsonl").open("a")
        self._board = _tensorboard(folder / "tensorboard", step)
        self._bar = tqdm(
            total=steps, initial=step, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()
        )

    def advance(self) -> None:
        """Advance the progress bar by one step."""
        self._bar.update()

    def write(self, row: dict[str, Any]) -> None:
        """Write a row of numbers; ``step``, ``loss``, ``iou`` and ``s_per_step`` must be among them."""
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())
        if self._board is not None:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, row["step"])
            self._board.flush()
        minutes = (self.steps - row["step"]) * row["s_per_step"] / 60
        checked = f", validation {row['validation_iou']:.3f}" if "validation_iou" in row else ""
        log.info(
            "step %d of %d: loss %.4f, iou %.3f%s, %.2f s/step, %.0f min left",
            *(row["step"], self.steps, row["loss"], row["iou"], checked, row["s_per_step"], minutes),
        )

    def show(self, step: int, picture: Tensor) -> None:
        """Write an image of predictions, (3, H, W) uint8."""
        write_png(picture, str(self.folder / "predictions.png"))
        if self._board is not None:
            self._board.add_image("predictions", picture, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._lines.close()
        if self._board is not None:
            self._board.close()


def drop_rows_after(path: Path, step: int) -> None:
    """Drop the rows of a JSON-lines log after a step, and a truncated last line. The file changes atomically."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    with atomic_file(path) as temporary:
        temporary.write_text("".join(kept))


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        log.info("no TensorBoard: pip install 'fewscope[train]' adds it; log.jsonl has the same numbers")
        return None
    # hides what a killed run wrote after its last checkpoint
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
