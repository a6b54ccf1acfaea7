"""The benchmarks of the correction loop: what they count, and that nothing that is asked about was shown."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import corrections, first_outlines, loop, where_wrong


@pytest.mark.parametrize("module", [corrections, first_outlines, loop, where_wrong])
def test_help_shows_a_command(module, capsys):
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert f"python benchmarks/{module.__name__.split('.')[-1]}.py" in capsys.readouterr().out


def test_strokes_are_pieces_that_are_missing_or_too_much():
    true = np.zeros((60, 60), np.uint8)
    true[5:15, 5:15] = true[30:40, 5:15] = 1
    found = np.zeros((60, 60), bool)
    found[5:15, 5:15] = True  # right
    found[50:55, 50:55] = True  # too much; the second one is missing
    found[0, 0:5] = True  # too small to mend
    assert corrections.strokes(found, true) == 2
    assert corrections.strokes(true == 1, true) == 0


def test_no_picture_is_both_shown_and_asked_about(tmp_path):
    folder = tmp_path / "cells"
    folder.mkdir()
    lines = ["class,k,source_id"]
    for k in range(1, 31):
        picture = k % 10
        Image.fromarray(np.full((224, 224, 3), 10 * picture, np.uint8)).save(folder / f"{k}.jpg")
        Image.fromarray(np.full((224, 224), 255, np.uint8)).save(folder / f"{k}.png")
        lines.append(f"cells,{k},picture {picture}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    for seed in range(3):
        tested, ground = corrections.read_class(folder, seed)
        shown = {round(float(image.mean()), -1) for image in ground.images}
        asked = {round(float(image.mean()), -1) for image in tested.images}
        assert not shown & asked
        assert 10 <= len(tested.images) <= corrections.N_TESTED
        assert 10 <= len(ground.images) <= corrections.N_GROUND


def test_chance_is_one_half_and_a_perfect_order_one():
    wrong = np.array([True, False, True, False])
    assert where_wrong.auc(np.array([3.0, 1.0, 4.0, 2.0]), wrong) == 1
    assert where_wrong.auc(np.ones(4), wrong) == 0.5
    assert np.isnan(where_wrong.auc(np.ones(4), np.zeros(4, bool)))
