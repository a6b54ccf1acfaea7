"""Label images as masks: taken for object numbers where they are, refused where they may be classes."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.measure
import tifffile
from PIL import Image

from fewscope.connectors.photographs import load_photograph_support
from fewscope.connectors.support.load import load_support
from tests.helpers.support_folders import disc, photo, refusal, save_pair


def cells(n: int, first: int = 1, seed: int = 0) -> np.ndarray:
    """(224, 224) int64: ``n`` squares with the numbers from ``first`` on, every second touching the one before."""
    places = np.random.default_rng(seed).permutation(49)[:n]
    numbers = np.zeros((224, 224), int)
    for k, place in enumerate(places):
        row, col = 32 * (place // 7), 32 * (place % 7)
        numbers[row + 4 : row + 30 + 2 * (k % 2), col + 4 : col + 30] = first + k
    return numbers


def save_cells(folder, stem: str, numbers: np.ndarray, dtype=np.uint16, ending: str = "png") -> None:
    save_pair(folder, stem, photo(seed=len(stem)))
    (folder / "label" / f"{stem}.png").unlink()
    path = folder / "label" / f"{stem}.{ending}"
    if np.dtype(dtype).itemsize == 8:  # Pillow writes no such file
        tifffile.imwrite(path, numbers.astype(dtype), compression="zlib")
    else:
        Image.fromarray(numbers.astype(dtype)).save(path)


def renamed(numbers: np.ndarray) -> np.ndarray:
    """Object numbers in the order of their first pixels."""
    _, first, index = np.unique(numbers, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[index].reshape(numbers.shape)


@pytest.mark.parametrize(
    ("dtype", "ending"),
    [
        *((np.uint8, "png"), (np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif"), (np.float32, "tif")),
        *((np.int64, "tif"), (np.float64, "tif")),
    ],
)
def test_object_numbers_are_instances_and_the_report_says_so(tmp_path, dtype, ending):
    for stem, n in (("a", 12), ("bb", 31), ("ccc", 20)):
        save_cells(tmp_path, stem, cells(n, seed=n), dtype, ending)
    support = load_support(str(tmp_path))
    for k, n in enumerate((12, 31, 20)):
        assert np.array_equal(support.labels[k], cells(n, seed=n) > 0)
        assert np.array_equal(support.instances[k], cells(n, seed=n))
    (assumed,) = support.assumptions
    for word in (
        str(tmp_path),
        "object numbers",
        "63 in all",
        "support.json",
        '"instances": false',
        '"classes"',
    ):
        assert word in assumed


def test_numbers_with_gaps_are_objects_if_no_class_may_be_so_large(tmp_path):
    """Tiles of one large label image, as QuPath exports them."""
    save_cells(tmp_path, "a", cells(9, first=100))
    save_cells(tmp_path, "b", cells(7, first=300))
    assert load_support(str(tmp_path)).instances.max() == 306
    save_cells(tmp_path, "a", 2 * cells(9))
    save_cells(tmp_path, "b", 2 * cells(7))
    assert "object numbers or classes?" in refusal(tmp_path)


def test_a_picture_with_a_single_object_is_one_of_them(tmp_path):
    """Its mask has two values, as any other mask."""
    save_cells(tmp_path, "a", cells(1))
    save_cells(tmp_path, "b", cells(25))
    save_cells(tmp_path, "c", cells(0))
    save_cells(tmp_path, "d", np.full((224, 224), 7))  # filled by one object
    support = load_support(str(tmp_path))
    assert [len(np.unique(objects[objects > 0])) for objects in support.instances] == [1, 25, 0, 1]


def test_a_label_image_among_masks_of_two_values(tmp_path):
    """Connected pieces are the objects of a mask of two values, as they always were."""
    two = (cells(20) > 0) & (cells(20) % 2 == 1)  # the squares that touch no other
    save_cells(tmp_path, "a", two * 255, np.uint8)
    save_cells(tmp_path, "b", cells(25))
    support = load_support(str(tmp_path))
    assert np.array_equal(renamed(support.instances[0]), renamed(skimage.measure.label(two, connectivity=2)))


def classes() -> np.ndarray:
    """(224, 224): three classes in many pieces."""
    rng = np.random.default_rng(1)
    return np.kron(rng.integers(0, 4, (14, 14)), np.ones((16, 16), int))


@pytest.mark.parametrize("numbers", [cells(2), cells(3), cells(8)], ids=["2", "3", "8"])
def test_a_few_blobs_may_be_objects_or_classes(tmp_path, numbers):
    for stem in "abcde":
        save_cells(tmp_path, stem, numbers, np.uint8)
    said = refusal(tmp_path)
    for word in ("label/a.png", "object numbers or classes?", '"instances": true', '"classes": [names]'):
        assert word in said
    statement = tmp_path / "support.json"
    statement.write_text('{"instances": true}')
    assert np.array_equal(load_support(str(tmp_path)).instances[4], numbers)
    assert load_support(str(tmp_path)).assumptions == ()
    names = [f"class {value}" for value in range(1, numbers.max() + 1)]
    statement.write_text(f'{{"classes": {names}}}'.replace("'", '"'))
    by_class = load_support(str(tmp_path))
    assert by_class.class_names == tuple(names)
    assert np.array_equal(by_class.labels[0], numbers)


def test_classes_in_pieces_are_no_objects(tmp_path):
    save_cells(tmp_path, "a", classes(), np.uint8)
    for word in ("label/a.png", "4 values (0, 1, 2, 3)", '"classes"', '"instances": true'):
        assert word in refusal(tmp_path)


def test_what_is_assumed_of_object_numbers_can_be_denied(tmp_path):
    save_cells(tmp_path, "a", cells(30))
    save_cells(tmp_path, "b", cells(1) * 255)
    (tmp_path / "support.json").write_text('{"instances": false}')
    support = load_support(str(tmp_path))
    assert support.instances is None
    assert np.array_equal(support.labels[0], cells(30) > 0)
    assert np.array_equal(support.labels[1], cells(1) > 0)
    for text in ('{"instances": 1}', '{"instances": true, "classes": ["a"]}'):
        (tmp_path / "support.json").write_text(text)
        assert "support.json: instances" in refusal(tmp_path)


def test_a_jpeg_holds_no_numbers(tmp_path):
    save_cells(tmp_path, "a", cells(30) * 8, np.uint8, "jpg")
    assert "JPEG" in refusal(tmp_path)


def test_object_numbers_are_not_read_where_objects_lie_beside(tmp_path):
    save_cells(tmp_path, "a", cells(30))
    save_cells(tmp_path, "b", cells(20))
    Image.fromarray(cells(30).astype(np.uint16)).save(tmp_path / "label" / "a.inst.png")
    Image.fromarray((cells(20) > 0).astype(np.uint16) * 9).save(tmp_path / "label" / "b.inst.png")
    assert "label/a.png" in refusal(tmp_path)


def test_photographs_may_have_label_images_too(tmp_path):
    save_cells(tmp_path, "a", cells(30))
    save_cells(tmp_path, "b", disc())
    support = load_photograph_support(tmp_path)
    assert np.array_equal(support.labels[0], cells(30) > 0)
    assert "object numbers" in support.assumptions[0]


def test_numbers_of_more_than_32_bits_are_refused(tmp_path):
    save_cells(tmp_path, "a", cells(12, seed=1).astype(np.int64) * 2**33, np.int64, "tif")
    assert "more than 32 bits" in refusal(tmp_path)
