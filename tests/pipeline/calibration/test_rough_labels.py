"""Points and boxes become outlines that a model agrees with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.ndimage import find_objects

from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.support.blobs import find_blobs
from fewscope.connectors.support.picture_patches import cut_patches
from fewscope.connectors.support.pictures import Labelled, Picture, PictureFolder
from fewscope.connectors.support.support_set import BOX, POINT, SupportSet
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.calibration.rough_labels import (
    BOX_MARGIN,
    keep_outlines,
    kept_outlines,
    outline_rough_objects,
)
from fewscope.pipeline.plan import typical_radius

ROWS, COLS = np.indices((224, 224))


def ellipses(seed: int, radius: float, n: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Dark ellipses on a light ground with noise, (224, 224, 3) uint8, and their numbers; some of them touch."""
    rng = np.random.default_rng(seed)
    numbers = np.zeros((224, 224), np.int32)
    for number in range(1, n + 1):
        row, col = rng.uniform(radius, 224 - radius, 2)
        along = rng.uniform(0.85, 1.2) * radius
        inside = ((ROWS - row) / along) ** 2 + ((COLS - col) * along / radius**2) ** 2 <= 1
        if (numbers[inside] > 0).mean() < 0.05:
            numbers[inside & (numbers == 0)] = number
    image = np.where((numbers > 0)[..., None], (95, 60, 140), (226, 200, 214))
    image = image + rng.normal(0, 10, image.shape)
    return image.clip(0, 255).astype(np.uint8), numbers


def points_of(numbers: np.ndarray, size: int = 3) -> np.ndarray:
    """A disc in the middle of each object, with its number."""
    marked = np.zeros_like(numbers)
    for number in np.unique(numbers[numbers > 0]):
        row, col = (axis[numbers == number].mean() for axis in (ROWS, COLS))
        marked[(ROWS - row) ** 2 + (COLS - col) ** 2 <= size**2] = number
    return marked


def boxes_of(numbers: np.ndarray) -> np.ndarray:
    """The box of each object, with its number."""
    marked = np.zeros_like(numbers)
    for number in np.unique(numbers[numbers > 0]):
        rows, cols = np.nonzero(numbers == number)
        marked[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1] = number
    return marked


def support_of(images: np.ndarray, marked: np.ndarray, kind: int) -> SupportSet:
    labels = (marked > 0).astype(np.uint8)
    labels[:, :, :20] = 255
    marked = np.where(labels == 1, marked, 0).astype(np.int32)
    return SupportSet(
        images=images,
        labels=labels,
        instances=marked,
        names=tuple(map(str, range(len(images)))),
        mpp=0.5,
        class_names=("nucleus",),
        rough=np.where(marked > 0, kind, 0).astype(np.uint8),
    )


@settings(max_examples=6, deadline=None)
@given(st.floats(4, 28), st.booleans(), st.integers(0, 9))
def test_radius_and_middle_are_those_of_the_blobs(radius, bright, seed):
    n = 4 if radius > 15 else 10
    images, centres = [], []
    for k in range(3):
        image, numbers = ellipses(seed + k, radius, n)
        images.append(255 - image if bright else image)
        ids = np.unique(numbers[numbers > 0])
        centres.append(np.array([[axis[numbers == i].mean() for axis in (ROWS, COLS)] for i in ids]))
    blobs = find_blobs(np.stack(images), centres)
    assert blobs.radius == pytest.approx(radius, rel=0.3)
    assert blobs.sign == (-1 if bright else 1)
    assert find_blobs(np.stack(images), [np.zeros((0, 2))] * 3) is None
    rng = np.random.default_rng(seed)
    apart = []
    for image, points in zip(images, centres, strict=True):
        response = blobs.response(image)
        for point in points:
            angle = rng.uniform(0, 2 * np.pi)
            clicked = point + 0.35 * radius * np.array([np.sin(angle), np.cos(angle)])
            apart.append(np.hypot(*(np.array(blobs.middle(response, *clicked)) - point)))
    assert np.median(apart) < max(1.0, 0.2 * radius)  # nearer than what was clicked


def test_a_crowd_of_small_objects_is_not_taken_for_a_large_one():
    """Blurred discs of radius 5, seven in each clump, of which not all points are exact."""
    clump = 12 * np.array([[0, 0], *([np.sin(a), np.cos(a)] for a in np.arange(6) * np.pi / 3)])
    centres = np.concatenate(
        [clump + middle for middle in ((40, 40), (40, 170), (110, 105), (180, 50), (180, 170))]
    )
    inside = np.zeros((224, 224), bool)
    for row, col in centres:
        inside |= np.hypot(ROWS - row, COLS - col) <= 5
    image = ndimage.gaussian_filter(np.where(inside, 200.0, 20.0), 3)
    images = np.repeat(image[None, ..., None], 3, -1).astype(np.uint8)
    blobs = find_blobs(images, [centres + np.random.default_rng(0).normal(0, 1.5, centres.shape)])
    assert blobs.radius == pytest.approx(5, abs=2.5)


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter(device="cpu", precision="float32")


@pytest.mark.parametrize(("mark", "kind", "least"), [(points_of, POINT, 0.85), (boxes_of, BOX, 0.88)])
def test_outlines_are_those_of_the_objects(segmenter, mark, kind, least):
    drawn = [ellipses(seed, 11) for seed in range(3)]
    images, truth = (np.stack(parts) for parts in zip(*drawn, strict=True))
    support = support_of(images, np.stack([mark(one) for one in truth]), kind)
    found = outline_rough_objects(support, segmenter)
    assert found.rough is None
    assert found.digest() == support.digest()
    assert (found.labels[:, :, :20] == 255).all()
    known = found.labels != 255
    assert known[:, :, 20:].mean() > 0.9
    overlap = ((found.labels == 1) & (truth > 0) & known).sum() / (
        ((found.labels == 1) | (truth > 0)) & known
    ).sum()
    assert overlap > least
    for k in range(3):
        numbers = np.unique(support.instances[k][support.instances[k] > 0])
        assert len(np.unique(found.instances[k])) - 1 == len(numbers)
        for number in np.unique(found.instances[k])[1:]:  # each is within one true object, nearly
            inside = truth[k][found.instances[k] == number]
            assert np.bincount(inside[inside > 0]).max() > 0.7 * len(inside)
    assert typical_radius(found) == pytest.approx(11, rel=0.15), (
        "what is not sure around an object does not cut it"
    )
    (told,) = found.assumptions
    assert ("typical radius of" in told) == (kind == POINT)
    assert "estimates of quality compare with these" in told


class Sees:
    """A model that sees objects: the probability by the depth in them, px, whose logit is 0 at some depth."""

    name = "sees"

    def __init__(self, truth: np.ndarray, depth: float) -> None:
        inside, outside = (ndimage.distance_transform_edt(side) for side in (truth > 0, truth == 0))
        self.found = 1 / (1 + np.exp((depth - inside + outside) / 2))[None, None].astype(np.float32)

    def encode(self, images: np.ndarray, labels: np.ndarray) -> None:
        return None

    def predict(self, tiles: np.ndarray, features: None) -> np.ndarray:
        return self.found


def test_objects_touch_the_sides_of_their_boxes():
    """Also where the model finds them too small."""
    image, truth = ellipses(0, 13)
    found = outline_rough_objects(support_of(image[None], boxes_of(truth)[None], BOX), Sees(truth, 3))
    known = found.labels[0] != 255
    short = [
        np.subtract(
            np.ptp(np.argwhere(truth == i), axis=0),
            np.ptp(np.argwhere((truth == i) & (found.instances[0] > 0)), axis=0),
        )
        for i in np.unique(truth[known & (truth > 0)])
        if ((truth == i) & known).sum() > 0.8 * (truth == i).sum()
    ]
    assert len(short) > 5
    assert np.median(short) <= 2, "7 px are cut off at a probability of one half"


def test_objects_much_larger_than_most_are_whole_unless_the_radius_is_given():
    centres = [(row, col, 6) for row in (30, 60, 90, 120) for col in range(40, 210, 30)]
    centres += [(180, 50, 15), (180, 110, 15), (180, 170, 15)]
    truth = np.zeros((224, 224), np.int32)
    for number, (row, col, radius) in enumerate(centres, start=1):
        truth[np.hypot(ROWS - row, COLS - col) <= radius] = number
    image = np.where(truth > 0, 90, 220)[..., None].repeat(3, -1).astype(np.uint8)
    support = support_of(image[None], points_of(truth)[None], POINT)
    large = truth > len(centres) - 3

    def found_of_large(radius: float | None) -> float:
        found = outline_rough_objects(support, Sees(truth, 0.5), radius=radius)
        return float((found.labels[0] == 1)[large].mean())

    assert found_of_large(None) > 0.85
    assert found_of_large(6) < (1.6 * 6 / 15) ** 2 + 0.05


@pytest.mark.usefixtures("quick_texture")
def test_outlined_objects_and_other_classes_stay(segmenter):
    drawn = [ellipses(seed, 11) for seed in range(2)]
    images, truth = (np.stack(parts) for parts in zip(*drawn, strict=True))
    marked = np.stack([points_of(one) for one in truth])
    support = support_of(images, marked, POINT)
    labels, numbers, rough = support.labels.copy(), support.instances.copy(), support.rough.copy()
    other = np.zeros(labels.shape, bool)
    other[:, 200:220, 100:160] = True
    labels[other], numbers[other], rough[other] = 2, 99, 0
    mixed = replace(support, labels=labels, instances=numbers, rough=rough, class_names=("a", "b"))
    found = outline_rough_objects(mixed, segmenter)
    assert ((found.labels == 2) == other).all()
    assert ((found.instances == 99) == other).all()
    assert (found.labels == 1).sum() > 2 * (rough == POINT).sum()
    plain = replace(mixed, rough=None)
    assert outline_rough_objects(plain, segmenter) is plain


@pytest.mark.usefixtures("quick_texture")
def test_several_sources_share_the_outlines(segmenter):
    image, truth = ellipses(0, 11)
    support = support_of(image[None], points_of(truth)[None], POINT)
    cache = EncodingCache(segmenter)
    first = cache.outlined(support)
    again = cache.outlined(replace(support, names=("again",)))
    assert again is first
    assert cache.outlined(first) is first


@pytest.mark.usefixtures("quick_texture")
def test_a_given_radius_overrules_what_the_points_seem_to_mark(segmenter):
    """A nucleus in a cell: the points stand out as the larger one does."""
    drawn = [ellipses(seed, 14) for seed in range(2)]
    images, truth = (np.stack(parts) for parts in zip(*drawn, strict=True))
    support = support_of(images, np.stack([points_of(one) for one in truth]), POINT)
    cache = EncodingCache(segmenter)
    estimated, given = cache.outlined(support), cache.outlined(support, 5.0)
    of_points = typical_radius(estimated)
    assert of_points == pytest.approx(14, rel=0.15)
    assert typical_radius(given) <= 1.6 * 5.0 < of_points
    assert "a typical radius of" in estimated.assumptions[-1]
    assert "--object-radius-um" in estimated.assumptions[-1]
    assert "the given typical radius of 5 px, 2.5 um" in given.assumptions[-1]
    assert given.digest() != estimated.digest() == support.digest()


@pytest.mark.usefixtures("quick_texture")
def test_a_run_keeps_its_outlines(segmenter, tmp_path):
    image, truth = ellipses(0, 11)
    support = support_of(image[None], points_of(truth)[None], POINT)
    work, found = WorkDir(str(tmp_path)), outline_rough_objects(support, segmenter)
    assert kept_outlines(work, support) is None
    keep_outlines(work, support)  # as they were drawn: nothing was inferred
    assert kept_outlines(work, support) is None
    keep_outlines(work, found)
    again = kept_outlines(work, support)
    assert np.array_equal(again.labels, found.labels)
    assert np.array_equal(again.instances, found.instances)
    assert (again.digest(), again.assumptions) == (found.digest(), found.assumptions)
    assert kept_outlines(work, replace(support, mpp=0.25)) is None
    assert kept_outlines(work, support, 9.0) is None
    (file,) = tmp_path.rglob("outlines.npz")
    file.write_bytes(file.read_bytes()[:-200])
    assert kept_outlines(work, support) is None


@pytest.mark.parametrize("kind", [POINT, BOX])
def test_objects_that_patches_of_a_picture_cut_are_known_as_a_whole(segmenter, kind):
    """Two patches cut through a row of ellipses, a point of each of which is in one patch only."""
    rows, cols = np.indices((224, 448))
    truth = np.zeros((224, 448), np.int32)
    for number, row in enumerate(range(24, 224, 44), start=1):
        for beside, col in ((0, 217 + 3 * number), (20, 60), (40, 380)):
            truth[((rows - row) / 13) ** 2 + ((cols - col) / 16) ** 2 <= 1] = number + beside
    image = np.where((truth > 0)[..., None], (95, 60, 140), (226, 200, 214))
    image = (image + np.random.default_rng(0).normal(0, 10, image.shape)).clip(0, 255).astype(np.uint8)
    marked = np.zeros_like(truth)
    for number in np.unique(truth[truth > 0]):
        inside_rows, inside_cols = np.nonzero(truth == number)
        if kind == BOX:
            box = np.s_[inside_rows.min() : inside_rows.max() + 1, inside_cols.min() : inside_cols.max() + 1]
            marked[box] = number
        else:
            marked[np.hypot(rows - inside_rows.mean(), cols - inside_cols.mean()) <= 3] = number
    whole = Labelled(
        image, (marked > 0).astype(np.uint8), marked, np.where(marked > 0, kind, 0).astype(np.uint8)
    )
    support = cut_patches(PictureFolder("two", [Picture("a", "a", lambda: whole)], ("nucleus",), None))
    assert len(support.names) == 2
    found = outline_rough_objects(support, segmenter)
    halves = np.stack([truth[:, :224], truth[:, 224:]])

    def iou(labels: np.ndarray) -> float:
        known = labels != 255
        agree = (labels == 1) & (halves > 0) & known
        return agree.sum() / (((labels == 1) | (halves > 0)) & known).sum()

    assert iou(found.labels) > 0.97
    if kind == POINT:  # of a box, either patch shows enough
        assert iou(found.labels) > iou(outline_rough_objects(replace(support, marks=()), segmenter).labels)


class EverythingIsObject:
    name = "everything"

    def encode(self, images: np.ndarray, labels: np.ndarray) -> int:
        return len(labels)

    def predict(self, tiles: np.ndarray, n_classes: int) -> np.ndarray:
        return np.ones((len(tiles), n_classes, 224, 224), np.float32)


def test_an_object_stays_in_its_box_also_beside_the_corners_of_smaller_ones():
    """In radii, the corners of a small box are nearer to the middle of a large box beside it."""
    boxes = np.zeros((1, 224, 224), np.int32)
    boxes[0, 20:140, 20:60] = 1
    boxes[0, 60:90, 62:92] = 2
    boxes[0, 40:58, 62:92] = 3
    support = replace(
        support_of(np.full((1, 224, 224, 3), 128, np.uint8), boxes, BOX),
        labels=(boxes > 0).astype(np.uint8), instances=boxes, rough=np.where(boxes > 0, BOX, 0).astype(np.uint8),
    )  # fmt: skip
    (found,) = outline_rough_objects(support, EverythingIsObject()).instances
    outlines = np.unique(found[found > 0])
    assert len(outlines) == 3
    for box, number in zip(find_objects(boxes[0]), outlines, strict=True):
        rows, cols = (slice(one.start - BOX_MARGIN, one.stop + BOX_MARGIN) for one in box)
        assert (found[rows, cols] == number).sum() == (found == number).sum()
