"""What every reader of support sets promises, whichever way the same labels were made.

Each maker writes the same picture with the same two classes in a form of its own; the suite knows only the form's name.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from PIL import Image
from shapely.geometry import box

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.source import Source
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import FewscopeError, SupportError
from fewscope.pipeline.photographs import run_lengths
from tests.helpers import drawn_files
from tests.helpers.rasters import north_up, write_raster

SIDE = 300
CORNERS = [(10, 20), (60, 70)]  # row, col of the two patches; they overlap, as regions may
VESSELS = [(40, 60, 70, 100), (200, 110, 230, 140)]  # top, left, bottom, right of each object
NUCLEI = [(100, 100, 110, 110), (120, 180, 132, 190), (150, 90, 160, 105), (260, 270, 270, 280)]
CLASSES = {"nucleus": NUCLEI, "vessel": VESSELS}


def picture() -> np.ndarray:
    """uint8 (300, 300, 3)."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def labels_of(names: list[str]) -> np.ndarray:
    """uint8 (300, 300): 1.. where the objects of the classes are."""
    label = np.zeros((SIDE, SIDE), np.uint8)
    for value, name in enumerate(names, start=1):
        for top, left, bottom, right in CLASSES[name]:
            label[top:bottom, left:right] = value
    return label


def crops(array: np.ndarray) -> list[np.ndarray]:
    return [array[r : r + PATCH_SIZE, c : c + PATCH_SIZE] for r, c in CORNERS]


@dataclass(frozen=True)
class Form:
    """A support set on disk, and the picture that it was drawn on."""

    uri: str
    source: Source | None = None
    several: bool = True  # classes

    def load(self, *class_names: str) -> SupportSet:
        return load_support(self.uri, source=self.source, class_names=class_names)

    def damage(self) -> str:
        """Cut a file of it short, that of labels if there is one; the end of its path."""
        path = Path(self.uri)
        files = [path] if path.is_file() else sorted(path.rglob("*.png"))
        files = [file for file in path.rglob("*.json") if file.name != "support.json"] or files
        content = files[0].read_bytes()
        files[0].write_bytes(content[: len(content) // 2])
        return files[0].name


def folder_of_pairs(folder: Path) -> Form:
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True)
    for k, (image, label) in enumerate(zip(crops(picture()), crops(labels_of(list(CLASSES))), strict=True)):
        Image.fromarray(image).save(folder / "image" / f"{k}.png")
        Image.fromarray(label).save(folder / "label" / f"{k}.png")
    (folder / "support.json").write_text(json.dumps({"mpp": 0.5, "classes": list(CLASSES)}))
    return Form(str(folder))


def flat_folder(folder: Path) -> Form:
    """One class, as FSS-1000 has it; JPEG pictures."""
    folder = folder / "nucleus"
    folder.mkdir(parents=True)
    for k, (image, label) in enumerate(zip(crops(picture()), crops(labels_of(["nucleus"])), strict=True)):
        Image.fromarray(image).save(folder / f"{k}.jpg", quality=95)
        Image.fromarray(label * 255).save(folder / f"{k}.png")
    return Form(str(folder), several=False)


def pairs_of_cellpose(folder: Path) -> Form:
    """One class: object numbers in a.png and a_cp_masks.png; those of a few objects are stated to be numbers."""
    folder = folder / "nucleus"
    folder.mkdir(parents=True)
    numbers = numbers_of(NUCLEI)
    for k, (image, label) in enumerate(zip(crops(picture()), crops(numbers), strict=True)):
        Image.fromarray(image).save(folder / f"{k}.png")
        Image.fromarray(label.astype(np.uint16)).save(folder / f"{k}_cp_masks.png")
    (folder / "support.json").write_text('{"instances": true}')
    return Form(str(folder), several=False)


def numbers_of(objects: list[tuple[int, int, int, int]]) -> np.ndarray:
    """int32 (300, 300): 1.. for each object."""
    numbers = np.zeros((SIDE, SIDE), np.int32)
    for number, (top, left, bottom, right) in enumerate(objects, start=1):
        numbers[top:bottom, left:right] = number
    return numbers


def corners_in(patch: tuple[int, int], outline: tuple[int, int, int, int]) -> list[list[int]]:
    """Corners of an object, x and y in px of a patch; it may reach beyond."""
    top, left, bottom, right = outline
    row, col = patch
    return [[left - col, top - row], [right - col, bottom - row]]


def coco_beside_pictures(folder: Path) -> Form:
    """Polygons and, every second one, run lengths."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    names = ["unused", *CLASSES]
    labels: dict[str, list[dict]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    for k, (image, patch) in enumerate(zip(crops(picture()), CORNERS, strict=True)):
        Image.fromarray(image).save(folder / "images" / f"{k}.png")
        labels["images"].append({"id": k, "file_name": f"{k}.png", "height": PATCH_SIZE, "width": PATCH_SIZE})
        for name, objects in CLASSES.items():
            for number, outline in enumerate(objects):
                (left, top), (right, bottom) = corners_in(patch, outline)
                mask = np.zeros((PATCH_SIZE, PATCH_SIZE), bool)
                mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
                polygon = [[left, top, right, top, right, bottom, left, bottom]]
                runs = {"size": [PATCH_SIZE, PATCH_SIZE], "counts": run_lengths(mask)}
                labels["annotations"].append(
                    {
                        "image_id": k,
                        "category_id": names.index(name),
                        "segmentation": runs if number % 2 else polygon,
                    }
                )
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(labels))
    return Form(str(folder))


def labelme_beside_pictures(folder: Path) -> Form:
    folder.mkdir(parents=True)
    for k, (image, patch) in enumerate(zip(crops(picture()), CORNERS, strict=True)):
        Image.fromarray(image).save(folder / f"{k}.png")
        shapes = []
        for name, objects in CLASSES.items():
            for outline in objects:
                (left, top), (right, bottom) = corners_in(patch, outline)
                points = [[left, top], [right, top], [right, bottom], [left, bottom]]
                shapes.append({"label": name, "points": points, "shape_type": "polygon"})
        text = {"shapes": shapes, "imagePath": f"{k}.png", "imageData": None}
        (folder / f"{k}.json").write_text(json.dumps(text))
    return Form(str(folder))


def class_folders(folder: Path) -> Form:
    for name in CLASSES:
        for part in ("image", "label"):
            (folder / name / part).mkdir(parents=True)
        for k, (image, label) in enumerate(zip(crops(picture()), crops(labels_of([name])), strict=True)):
            Image.fromarray(image).save(folder / name / "image" / f"{k}.png")
            Image.fromarray(label * 255).save(folder / name / "label" / f"{k}.png")
    return Form(str(folder))


def boxes() -> list[tuple[str, shapely.Polygon]]:
    """Class and outline, in pixels (x, y), of the regions and of all objects."""
    drawn = [("Region*", box(c, r, c + PATCH_SIZE, r + PATCH_SIZE)) for r, c in CORNERS]
    for name, objects in CLASSES.items():
        drawn += [(name, box(left, top, right, bottom)) for top, left, bottom, right in objects]
    return drawn


def _on_a_slide(folder: Path, name: str) -> Form:
    folder.mkdir(parents=True)
    write_pyramid(folder / "slide.tif", picture(), 0.5)
    return Form(drawn_files.write(folder, name, boxes()), open_source(str(folder / "slide.tif")))


def qupath_on_a_slide(folder: Path) -> Form:
    return _on_a_slide(folder, "drawn.geojson")


def imagescope_on_a_slide(folder: Path) -> Form:
    return _on_a_slide(folder, "imagescope.xml")


def asap_on_a_slide(folder: Path) -> Form:
    return _on_a_slide(folder, "asap.xml")


def imagej_on_a_slide(folder: Path) -> Form:
    return _on_a_slide(folder, "RoiSet.zip")


def ndpview_on_a_slide(folder: Path) -> Form:
    """On an image without losses, as other slides are: it lies where one of Hamamatsu's does."""
    form = _on_a_slide(folder, "drawn.geojson")
    path = folder / "drawn.ndpa"
    to_nm = Affine.translation(3_000_000, -2_000_000) @ Affine.scale(500)
    path.write_bytes(drawn_files.ndpview(boxes(), to_nm))
    form.source._info = replace(form.source.info, from_glass_nm=~to_nm)
    return replace(form, uri=str(path))


def on_the_ground(outline: shapely.Polygon) -> shapely.Polygon:
    to_world: Affine = north_up()
    return shapely.transform(outline, lambda p: np.column_stack(to_world @ (p[:, 0], p[:, 1])))


def polygons_on_a_raster(folder: Path) -> Form:
    folder.mkdir(parents=True)
    scene = write_raster(folder / "scene.tif", np.moveaxis(picture(), -1, 0), north_up())
    path = folder / "drawn.gpkg"
    pyogrio.raw.write(
        str(path), np.array([shapely.to_wkb(on_the_ground(outline)) for _, outline in boxes()], object),
        [np.array([name for name, _ in boxes()], object)], ["class"], driver="GPKG", geometry_type="Polygon",
        crs="EPSG:32618",
    )  # fmt: skip
    return Form(str(path), open_source(scene, raster=RasterOptions()))


def layers_on_a_raster(folder: Path) -> Form:
    form = polygons_on_a_raster(folder)
    path = folder / "layers.gpkg"
    for layer, class_name in (("regions", "Region*"), ("nucleus", "nucleus"), ("vessel", "vessel")):
        shapes = [shapely.to_wkb(on_the_ground(outline)) for name, outline in boxes() if name == class_name]
        pyogrio.raw.write(
            str(path), np.array(shapes, object), [], [], driver="GPKG", layer=layer, geometry_type="Polygon",
            crs="EPSG:32618", append=path.exists(),
        )  # fmt: skip
    return replace(form, uri=str(path))


MAKERS: list[Callable[[Path], Form]] = [
    folder_of_pairs, flat_folder, pairs_of_cellpose, coco_beside_pictures, labelme_beside_pictures, class_folders,
    qupath_on_a_slide, imagescope_on_a_slide, asap_on_a_slide, imagej_on_a_slide, ndpview_on_a_slide,
    polygons_on_a_raster, layers_on_a_raster,
]  # fmt: skip


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def form(request, tmp_path) -> Form:
    return request.param(tmp_path / "support")


def test_shapes_types_and_values_are_those_of_a_support_set(form):
    support = form.load()
    n = len(support.names)
    assert n == len(CORNERS)
    assert (support.images.shape, support.images.dtype) == ((n, PATCH_SIZE, PATCH_SIZE, 3), np.uint8)
    assert (support.labels.shape, support.labels.dtype) == ((n, PATCH_SIZE, PATCH_SIZE), np.uint8)
    assert set(np.unique(support.labels)) <= {*range(len(support.class_names) + 1), IGNORE_LABEL}
    if support.instances is not None:
        assert (support.instances.shape, support.instances.dtype) == (support.labels.shape, np.int32)
        assert np.array_equal(support.instances > 0, (support.labels > 0) & (support.labels != IGNORE_LABEL))
    assert support.labels_by_class.shape == (len(support.class_names), n, PATCH_SIZE, PATCH_SIZE)
    assert all(isinstance(line, str) and "\n" not in line for line in (*support.notes, *support.assumptions))


def test_labels_lie_on_the_objects_of_the_picture(form):
    support = form.load()
    for k, (image, label) in enumerate(
        zip(crops(picture()), crops(labels_of(list(support.class_names))), strict=True)
    ):
        known = support.labels[k] != IGNORE_LABEL
        assert known.any()
        assert np.array_equal(support.labels[k][known], label[known])
        difference = np.abs(support.images[k].astype(int) - image)
        assert difference.mean() <= (60 if ".jpg" in support.names[k] else 0)


def test_classes_are_in_the_order_of_their_names_or_in_the_one_asked_for(form):
    names = form.load().class_names
    assert list(names) == sorted(names)
    if form.several:
        straight, turned = form.load(), form.load("vessel", "nucleus")
        assert (straight.class_names, turned.class_names) == (("nucleus", "vessel"), ("vessel", "nucleus"))
        exchanged = np.array([0, 2, 1, *[0] * 252, IGNORE_LABEL], np.uint8)[straight.labels]
        assert np.array_equal(turned.labels, exchanged)


def test_the_same_labels_of_pictures_are_the_same_support_set(tmp_path):
    """Object numbers differ at most; those of label images are theirs."""
    masks = folder_of_pairs(tmp_path / "masks").load()
    coco = coco_beside_pictures(tmp_path / "coco").load()
    labelme = labelme_beside_pictures(tmp_path / "labelme").load()
    assert coco.digest() == labelme.digest()
    assert replace(coco, instances=None, mpp=masks.mpp).digest() == masks.digest()
    nuclei = coco_beside_pictures(tmp_path / "nuclei").load("nucleus")
    cellpose = pairs_of_cellpose(tmp_path / "cellpose").load()
    assert cellpose.instances is not None
    assert cellpose.digest() == nuclei.digest()


def test_what_is_of_a_class_that_was_not_chosen_is_background(form):
    if form.several:
        one = form.load("vessel")
        assert one.class_names == ("vessel",)
        for k, label in enumerate(crops(labels_of(list(CLASSES)))):
            known = one.labels[k] != IGNORE_LABEL
            assert np.array_equal(one.labels[k][known] == 1, label[known] == 2)


def test_the_digest_is_that_of_the_content(form):
    first, again = form.load(), form.load()
    assert first.digest() == again.digest() == pickle.loads(pickle.dumps(first)).digest()
    assert replace(first, notes=("x",), assumptions=("y",), names=tuple("ab")).digest() == first.digest()
    changed = first.labels.copy()
    row, col = np.argwhere(changed[0] == 0)[0]
    changed[0, row, col] = IGNORE_LABEL
    assert replace(first, labels=changed).digest() != first.digest()
    if form.several:
        assert form.load("vessel", "nucleus").digest() != first.digest()


def test_a_class_that_is_not_there_is_refused_with_the_names_that_are(form):
    if form.several:
        with pytest.raises(SupportError) as error:
            form.load("vessel", "gland")
        for word in (form.uri, "'gland'", "nucleus", "vessel"):
            assert word in str(error.value)


def test_a_class_is_found_in_any_case_where_it_is_the_only_one(form):
    if form.several:
        assert np.array_equal(form.load("VESSEL").labels, form.load("vessel").labels)
        with pytest.raises(SupportError, match="asked for twice"):
            form.load("vessel", "Vessel")


def test_what_is_damaged_is_refused_in_one_line_that_names_the_file(form):
    name = form.damage()
    with pytest.raises(FewscopeError) as error:
        form.load()
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_what_is_missing_is_refused_by_its_name(form):
    gone = replace(form, uri=form.uri.replace("support", "nowhere"))
    with pytest.raises(SupportError, match="no such") as error:
        gone.load()
    assert gone.uri in str(error.value)
