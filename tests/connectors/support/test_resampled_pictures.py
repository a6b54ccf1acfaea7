"""Labelled pictures that are finer than the slide are read as the slide is."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest
from PIL import Image
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.pictures import Labelled
from fewscope.connectors.support.resampled_pictures import reduced
from fewscope.connectors.support.support_set import POINT

FACTORS = [1.3, 2.0, 2.7, 4.0]


def scene(height: int = 300, width: int = 420) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and numbered squares of 20 px."""
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    numbers = np.zeros((height, width), np.int32)
    for i, (row, col) in enumerate(np.ndindex(4, 6), start=1):
        numbers[60 * row + 30 : 60 * row + 50, 60 * col + 30 : 60 * col + 50] = i
    return image, numbers


@pytest.mark.parametrize("factor", FACTORS)
def test_pixels_are_those_of_a_slide_at_that_resolution(tmp_path, factor):
    image, numbers = scene()
    write_pyramid(tmp_path / "slide.tif", image, 0.25)
    with closing(open_source(str(tmp_path / "slide.tif"), mpp=0.25 * factor)) as slide:
        read, _ = slide.read(Window(0, 0, slide.info.width, slide.info.height))
    made = reduced(Labelled(image, (numbers > 0).astype(np.uint8), numbers), factor)
    height, width = np.minimum(made.image.shape[:2], read.shape[:2])
    assert min(height / read.shape[0], width / read.shape[1]) > 0.98
    np.testing.assert_array_equal(made.image[: height - 1, : width - 1], read[: height - 1, : width - 1])


@pytest.mark.parametrize("factor", FACTORS)
def test_objects_keep_their_places_numbers_and_areas(factor):
    image, numbers = scene()
    made = reduced(Labelled(image, (numbers > 0).astype(np.uint8), numbers), factor)
    assert made.instances is not None
    np.testing.assert_array_equal(made.labels > 0, made.instances > 0)
    for number in range(1, numbers.max() + 1):
        before, after = (np.argwhere(of == number) + 0.5 for of in (numbers, made.instances))
        assert after.mean(0) * factor == pytest.approx(before.mean(0), abs=0.5 * factor)
        assert np.sqrt(len(after)) * factor == pytest.approx(20, abs=factor)


def test_points_stay_however_small():
    image, numbers = scene()
    labels, points = np.zeros(numbers.shape, np.uint8), np.zeros(numbers.shape, np.int32)
    for i, (row, col) in enumerate([(7, 9), (101, 33), (299, 419)], start=1):
        labels[row, col], points[row, col] = 1, i
    made = reduced(Labelled(image, labels, points, np.where(labels > 0, np.uint8(POINT), np.uint8(0))), 4.0)
    assert made.rough is not None
    assert made.instances is not None
    assert np.argwhere(made.rough == POINT).tolist() == [[1, 2], [25, 8], [74, 104]]
    assert made.instances[made.rough == POINT].tolist() == [1, 2, 3]
    assert (made.labels[made.rough == POINT] == 1).all()


def test_a_folder_of_fine_pictures_has_fewer_patches_of_the_same_objects(tmp_path):
    image, numbers = scene(900, 900)
    (tmp_path / "image").mkdir()
    (tmp_path / "label").mkdir()
    Image.fromarray(image).save(tmp_path / "image/a.png")
    Image.fromarray((numbers > 0).astype(np.uint8) * 255).save(tmp_path / "label/a.png")
    Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / "label/a.inst.png")
    (tmp_path / "support.json").write_text(json.dumps({"mpp": 0.25, "class": "square"}))
    fine, coarse = load_support(str(tmp_path)), load_support(str(tmp_path), mpp=0.5)
    assert (len(fine.images), len(coarse.images)) == (16, 4)
    assert (fine.mpp, coarse.mpp) == (0.25, 0.5)
    assert coarse.instances is not None
    assert len(np.unique(coarse.instances[coarse.instances > 0])) == numbers.max()
    assert load_support(str(tmp_path), mpp=0.26).digest() == fine.digest()
    assert load_support(str(tmp_path), mpp=0.1).digest() == fine.digest()
