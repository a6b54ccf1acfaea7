"""A job with an encoder of the user's own."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewscope.jobs import segment_wsi

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_texture")]


class Colours(nn.Module):
    """Features of a stride of 4: the colours themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 4)


@pytest.fixture
def program(tmp_path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Colours()).save(str(tmp_path / "colours.pt"))
    return str(tmp_path / "colours.pt")


def test_a_job_names_it_and_is_not_resumed_without_it(
    slide: str, support: str, program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [slide, "--support", support, "--out", str(out), "--local", "--adapt", "0"]
    assert segment_wsi.main([*arguments, "--encoder", program]) == 0
    model = json.loads((out / "report.json").read_text())["run"]["model"]
    assert model["encoder"] == program
    assert "colours.pt" in (out / "report.html").read_text()

    capsys.readouterr()
    assert segment_wsi.main(arguments) == 2
    assert "weights" in capsys.readouterr().err

    assert segment_wsi.main([*arguments, "--overwrite", "--encoder", f"{program}.old"]) == 2
    assert "no such file; an encoder is" in capsys.readouterr().err
