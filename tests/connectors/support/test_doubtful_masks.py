"""Folders of masks that are inverted, full or named alike: a line in the report, or a refusal with the cause."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image

from fewscope.connectors.support.load import load_support
from fewscope.errors import SupportError
from tests.helpers.support_folders import disc, photo, save_pair


def nuclei(radius: int = 10, spacing: int = 40) -> np.ndarray:
    """uint8 (224, 224), 1 in discs on a grid."""
    row, col = np.mgrid[:224, :224]
    return ((row % spacing - spacing // 2) ** 2 + (col % spacing - spacing // 2) ** 2 < radius**2).astype(
        np.uint8
    )


def folder(path, *masks):
    for k, mask in enumerate(masks):
        save_pair(path, str(k), photo(seed=k), mask * 255)
    return load_support(str(path))


def test_ordinary_masks_have_no_notes(tmp_path):
    large = (np.add.outer(np.arange(224), np.arange(224)) < 300).astype(np.uint8)  # two thirds of a patch
    for k, masks in enumerate([(nuclei(), disc()), (large,), (1 - disc(), disc())]):
        assert folder(tmp_path / str(k), *masks).notes == ()


def test_inverted_masks_are_noted(tmp_path):
    (note,) = folder(tmp_path / "all", 1 - nuclei(), 1 - nuclei(9)).notes
    assert "looks inverted in all patches" in note
    (note,) = folder(tmp_path / "one", nuclei(), 1 - nuclei(), nuclei(9)).notes
    assert "looks inverted in 1.png" in note


def test_nearly_full_masks_are_noted_and_full_ones_refused(tmp_path):
    full = np.ones((224, 224), np.uint8)
    nearly = full.copy()
    nearly[:3] = 0
    (note,) = folder(tmp_path / "nearly", nearly, full).notes
    assert "99% of what is labelled is of class nearly" in note
    with pytest.raises(SupportError, match="masks are full, or an outline goes around everything"):
        folder(tmp_path / "full", full)


def test_every_class_of_a_mask_is_looked_at(tmp_path):
    mask = np.where(nuclei() > 0, 0, 2).astype(np.uint8)
    mask[:20, :20] = 1
    save_pair(tmp_path, "a", mask=mask)
    (tmp_path / "support.json").write_text(json.dumps({"classes": ["a", "b"]}))
    (note,) = load_support(str(tmp_path)).notes
    assert "class b looks inverted" in note


def test_folders_whose_names_differ_in_case(tmp_path):
    save_pair(tmp_path / "Nucleus", "a", photo(seed=1))
    save_pair(tmp_path / "nucleus", "a", photo(seed=2), nuclei() * 255)
    both = load_support(str(tmp_path))
    assert "differ in case only" in both.notes[-1]
    assert np.array_equal(load_support(str(tmp_path), class_names=["nucleus"]).labels[0], nuclei())
    with pytest.raises(SupportError, match="'Nucleus' and 'nucleus'"):
        load_support(str(tmp_path), class_names=["NUCLEUS"])


def test_notes_of_the_folders_of_classes_are_kept(tmp_path):
    save_pair(tmp_path / "a", "a", photo(seed=1), (1 - nuclei()) * 255)
    save_pair(tmp_path / "b", "a", photo(seed=2))
    (note,) = load_support(str(tmp_path)).notes
    assert "class a looks inverted" in note


def write_labels(path, labels: np.ndarray, nodata: int | None) -> None:
    profile = {
        "driver": "GTiff",
        "height": 224,
        "width": 224,
        "count": 1,
        "dtype": "uint8",
        "crs": "EPSG:32618",
    }
    with rasterio.open(path, "w", transform=Affine(10, 0, 0, 0, -10, 0), nodata=nodata, **profile) as written:
        written.write(labels[None])


def test_what_a_raster_of_labels_declares_as_no_data_is_not_labelled(tmp_path):
    """As `mask.tif` of a run is, and GIS programs write them."""
    labels = np.zeros((224, 224), np.uint8)
    labels[50:90, 50:90] = 1
    labels[:40] = 255
    for k in (1, 2):
        Image.fromarray(np.full((224, 224, 3), 90, np.uint8)).save(tmp_path / f"{k}.png")
        write_labels(tmp_path / f"{k}_mask.tif", labels, 255)
    support = load_support(str(tmp_path))
    assert np.array_equal(support.labels[0], labels)
    write_labels(tmp_path / "2_mask.tif", np.where(labels == 1, 0, labels), 255)
    with pytest.raises(SupportError, match=r"2_mask.tif: declares 255 as no data, and holds it and 0 alone"):
        load_support(str(tmp_path))
    write_labels(tmp_path / "2_mask.tif", labels, None)
    with pytest.raises(SupportError, match="a mask of 3 values"):
        load_support(str(tmp_path))


def test_a_georeferenced_raster_of_more_bits_is_refused_with_what_to_do(tmp_path):
    profile = {
        "driver": "GTiff",
        "height": 224,
        "width": 224,
        "count": 3,
        "dtype": "uint16",
        "crs": "EPSG:32618",
    }
    with rasterio.open(tmp_path / "1.tif", "w", transform=Affine(10, 0, 0, 0, -10, 0), **profile) as written:
        written.write(np.random.default_rng(0).integers(0, 3000, (3, 224, 224)).astype(np.uint16))
    labels = np.zeros((224, 224), np.uint8)
    labels[50:90, 50:90] = 1
    write_labels(tmp_path / "1_mask.tif", labels, None)
    with pytest.raises(SupportError, match="labels into polygons without the background"):
        load_support(str(tmp_path))
    with pytest.raises(SupportError, match=r"is a file, .* a raster of labels as polygons"):
        load_support(str(tmp_path / "1_mask.tif"))


def test_a_fourth_band_of_a_map_that_holds_data_is_no_opacity(tmp_path):
    """GDAL marks the near infrared of four bands so, unless it is told."""
    rng = np.random.default_rng(0)
    labels = np.zeros((224, 224), np.uint8)
    labels[50:90, 50:90] = 1
    write_labels(tmp_path / "1_mask.tif", labels, None)
    profile = {
        "driver": "GTiff",
        "height": 224,
        "width": 224,
        "count": 4,
        "dtype": "uint8",
        "crs": "EPSG:32618",
    }
    values = rng.integers(20, 200, (4, 224, 224)).astype(np.uint8)
    for fourth, is_data in ((values[3], True), (np.where(labels == 1, 255, 0), False)):
        values[3] = fourth
        with rasterio.open(
            tmp_path / "1.tif", "w", transform=Affine(10, 0, 0, 0, -10, 0), **profile
        ) as written:
            written.write(values)
        if is_data:
            (image,) = load_support(str(tmp_path)).images
            assert np.array_equal(image, np.moveaxis(values[:3], 0, 2))
        else:
            with pytest.raises(SupportError, match="has transparent pixels"):
                load_support(str(tmp_path))
