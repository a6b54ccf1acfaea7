"""A folder of photographs: what is written, that it fits the photographs, and that the worst go back."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from fewscope.connectors.photographs import load_photograph_support, photograph_files, read_photograph
from fewscope.errors import SourceError, SupportError
from fewscope.jobs import mine, photographs, segment_wsi
from fewscope.pipeline.photographs import Photograph, quality_of, ranked, run_lengths

FAST = ["--model", "prototype-compact", "--adapt", "0"]


def photo(size: tuple[int, int], centre: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on green, (H, W, 3) and its mask; the centre as shares of the sides."""
    rows, cols = np.indices(size)
    mask = (rows - centre[0] * size[0]) ** 2 + (cols - centre[1] * size[1]) ** 2 < radius**2
    image = np.where(mask[..., None], [220, 40, 30], [70, 150, 80])
    noise = np.random.default_rng(0).normal(0, 6, (*size, 3))
    return np.clip(image + noise, 0, 255).astype(np.uint8), mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Photographs of several sizes and formats, one turned by its EXIF, and two labelled ones."""
    photos, five = tmp_path / "photos", tmp_path / "disc"
    photos.mkdir()
    five.mkdir()
    for k, centre in enumerate([(0.4, 0.4), (0.5, 0.6)], start=1):
        image, mask = photo((300, 400), centre, 80)
        Image.fromarray(image).save(five / f"{k}.jpg")
        Image.fromarray(255 * mask.astype(np.uint8)).save(five / f"{k}.png")
    Image.fromarray(photo((360, 480), (0.5, 0.5), 90)[0]).save(photos / "a.jpg")
    Image.fromarray(photo((240, 200), (0.3, 0.5), 50)[0]).save(photos / "a.png")
    turned = Image.fromarray(np.rot90(photo((200, 320), (0.5, 0.25), 60)[0], 1).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned.save(photos / "turned.jpeg", exif=exif)
    (photos / "notes.txt").write_text("no picture")
    return photos, five


@pytest.mark.slow
def test_a_folder_of_photographs_is_labelled(
    folders: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    photos, five = folders
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    out = tmp_path / "out"
    command = [str(photos), "--support", str(five), "--out", str(out), *FAST]
    assert segment_wsi.main(command) == 3  # with holes: one is broken
    said = capfd.readouterr()
    assert "broken.jpg: cannot be decoded" in said.err
    assert "3 photographs in" in said.out
    content = json.loads((out / "photographs.json").read_text())
    assert content["class"] == "disc"
    names = [p["name"] for p in content["photographs"]]
    assert len(set(names)) == 3
    expected = {
        "a-1": (360, 480, 0.5, 0.5, 90),
        "a-2": (240, 200, 0.3, 0.5, 50),
        "turned": (200, 320, 0.5, 0.25, 60),
    }
    coco = json.loads((out / "coco.json").read_text())
    assert coco["categories"][0]["name"] == "disc"
    for image, facts in zip(coco["images"], content["photographs"], strict=True):
        height, width, row, col, radius = expected[facts["name"]]
        assert (image["height"], image["width"]) == (height, width) == (facts["height"], facts["width"])
        true = photo((height, width), (row, col), radius)[1]
        with Image.open(out / "masks" / f"{facts['name']}.png") as picture:
            mask = np.asarray(picture) > 0
        assert (mask & true).sum() / (mask | true).sum() > 0.8, facts
        own = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert len(own) == facts["n_objects"] >= 1
        whole = np.zeros_like(mask)
        for annotation in own:
            runs = coco_mask.frPyObjects(annotation["segmentation"], height, width)
            piece = np.asarray(coco_mask.decode(runs), bool)
            assert piece.sum() == annotation["area"]
            assert coco_mask.toBbox(runs).tolist() == annotation["bbox"]
            whole |= piece
        assert not (whole & ~mask).any()
        assert (mask & ~whole).sum() < 0.01 * mask.size
        assert facts["seconds"] > 0
        assert (out / "overlays" / f"{facts['name']}.jpg").exists()
    with Image.open(out / "contact.jpg") as sheet:
        assert sheet.size == (6 * 208 + 8, 26 + 238 + 8)
    assert segment_wsi.main(command) == 2
    assert "is not empty; give another --out, or --overwrite" in capfd.readouterr().err

    assert mine.main([str(out), "--worst", "2", "--out", str(tmp_path / "more")]) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("0.")]
    assert len(lines) == 2
    assert [float(line.split()[0]) for line in lines] == sorted(float(line.split()[0]) for line in lines)
    more = load_photograph_support(tmp_path / "more")  # complete pairs, for the next round
    assert len(more.images) == 2
    assert mine.main([str(out), "--out", str(tmp_path / "more")]) == 2
    assert mine.main([str(tmp_path)]) == 2
    assert "no such file; give a folder that segment has written" in capfd.readouterr().err


@pytest.mark.slow
def test_a_folder_in_which_nothing_is_found_says_so(
    folders: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    photos, five = folders
    command = [str(photos), "--support", str(five), "--out", str(tmp_path / "out"), *FAST]
    assert segment_wsi.main([*command, "--threshold", "0.5"]) == 0
    assert "warning" not in capfd.readouterr().out
    for path in photos.glob("*.jp*g"):
        path.unlink()
    Image.fromarray(np.full((200, 200, 3), [70, 150, 80], np.uint8)).save(photos / "a.png")
    assert segment_wsi.main([*command, "--threshold", "0.9", "--overwrite"]) == 0
    assert "warning: disc: nothing was found, although it is " in capfd.readouterr().out


def test_photographs_are_resized_whole_and_slides_are_none(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    photos, five = folders
    assert [path.name for path in photograph_files(photos)] == ["a.jpg", "a.png", "turned.jpeg"]
    assert photograph_files(photos / "a.jpg") == []
    (photos / "1.dcm").touch()
    assert photograph_files(photos) == []
    support = load_photograph_support(five)
    assert support.images.shape == (2, 224, 224, 3)
    assert support.class_names == ("disc",)
    row, col = np.argwhere(support.labels[0] == 1).mean(0)
    assert (row, col) == pytest.approx((0.4 * 224, 0.4 * 224), abs=1)
    assert read_photograph(photos / "turned.jpeg").shape == (200, 320, 3)


def test_photographs_of_any_kind_are_read_as_they_look(tmp_path: Path) -> None:
    grey = np.tile(np.linspace(2000, 3000, 200), (100, 1)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    deep = read_photograph(tmp_path / "deep.png")
    assert deep.shape == (100, 200, 3)
    assert (deep == deep[..., :1]).all()
    assert np.abs(deep[0, :, 0] - np.linspace(0, 255, 200)).max() < 4
    image, mask = photo((100, 200), (0.5, 0.5), 40)
    hidden = Image.fromarray(np.dstack([image, 255 * mask.astype(np.uint8)]))
    hidden.save(tmp_path / "cut.png")
    hidden.quantize().save(tmp_path / "cut-palette.png")
    for name, most in (("cut.png", 0), ("cut-palette.png", 40)):
        seen = read_photograph(tmp_path / name).astype(int)
        assert (seen[~mask] == 255).all(), name
        assert np.abs(seen - image)[mask].max() <= most, name
    for ending in ("webp", "bmp", "tif", "gif"):
        Image.fromarray(image).save(
            tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {})
        )
        assert np.abs(read_photograph(tmp_path / f"a.{ending}").astype(int) - image).mean() < 4
    assert {path.name for path in photograph_files(tmp_path)} == {
        *("a.bmp", "a.webp", "cut-palette.png", "cut.png", "deep.png")
    }


def test_which_pictures_of_a_folder_are_photographs(
    folders: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    photos, five = folders
    argv = ["--support", str(five), "--out", str(tmp_path / "out"), "--pictures"]
    (photos / "more").mkdir()
    Image.open(photos / "a.png").save(photos / "b.tif")

    def chosen(how: str) -> list[str]:
        return [
            path.name for path in photographs.photographs_of(segment_wsi.parse([str(photos), *argv, how]))
        ]

    assert chosen("auto") == ["a.jpg", "a.png", "turned.jpeg"]
    assert chosen("whole") == ["a.jpg", "a.png", "b.tif", "turned.jpeg"]
    assert chosen("tiles") == []
    assert photographs.left_out(photos, [photos / name for name in chosen("auto")]) == ["b.tif", "more/"]
    for slides in (
        [str(photos / "more")],
        [str(photos / "a.png")],
        [str(photos / "a.png"), str(photos / "a.jpg")],
    ):
        assert segment_wsi.main([*slides, *argv, "whole"]) == 2
        assert "--pictures whole" in capfd.readouterr().err


@pytest.mark.slow
def test_a_folder_of_photographs_is_labelled_by_coco(
    folders: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """As Roboflow exports it, and as its JSON alone: the masks are those of the same labels as PNG."""
    photos, five = folders
    images, annotations = [], []
    for k in (1, 2):
        with Image.open(five / f"{k}.png") as picture:
            mask = np.asarray(picture) > 0
        images.append({"id": k, "file_name": f"{k}.jpg", "height": 300, "width": 400})
        runs = {"size": [300, 400], "counts": run_lengths(mask)}
        annotations.append({"id": k, "image_id": k, "category_id": 1, "iscrowd": 0, "segmentation": runs})
    outs = {"png": tmp_path / "png", "coco": tmp_path / "coco"}
    command = [str(photos), *FAST]
    assert segment_wsi.main([*command, "--support", str(five), "--out", str(outs["png"])]) == 0
    for k in (1, 2):
        (five / f"{k}.png").unlink()
    categories = [{"id": 0, "name": "discs"}, {"id": 1, "name": "disc"}]
    labels = five / "_annotations.coco.json"
    labels.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    for support in (five, labels):
        assert (
            segment_wsi.main([*command, "--support", str(support), "--out", str(outs["coco"]), "--overwrite"])
            == 0
        )
        for mask_file in (outs["png"] / "masks").iterdir():
            assert (outs["coco"] / "masks" / mask_file.name).read_bytes() == mask_file.read_bytes()
    assert "warning" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_folder_of_photographs_is_labelled_by_boxes(
    folders: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos, five = folders
    outs = {"masks": tmp_path / "masks", "boxes": tmp_path / "boxes"}
    command = [str(photos), *FAST]
    assert segment_wsi.main([*command, "--support", str(five), "--out", str(outs["masks"])]) == 0
    for k in (1, 2):
        with Image.open(five / f"{k}.png") as picture:
            rows, cols = np.nonzero(np.asarray(picture))
        (five / f"{k}.png").unlink()
        corners = [[int(cols.min()), int(rows.min())], [int(cols.max()) + 1, int(rows.max()) + 1]]
        shapes = [{"label": "disc", "points": corners, "shape_type": "rectangle"}]
        (five / f"{k}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{k}.jpg"}))
    capfd.readouterr()
    assert segment_wsi.main([*command, "--support", str(five), "--out", str(outs["boxes"])]) == 0
    assert "assumed: Class disc: objects were marked by boxes" in capfd.readouterr().out
    told = json.loads((outs["boxes"] / "photographs.json").read_text())["assumptions"]
    assert any("outlines were inferred" in one for one in told)
    for file in (outs["masks"] / "masks").iterdir():
        with Image.open(file) as first, Image.open(outs["boxes"] / "masks" / file.name) as second:
            by_mask, by_box = np.asarray(first) > 0, np.asarray(second) > 0
        assert (by_mask & by_box).sum() > 0.9 * (by_mask | by_box).sum()


def test_bad_photographs_and_support_sets_are_one_line(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    (tmp_path / "none.png").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="cannot be decoded"):
        read_photograph(tmp_path / "none.png")
    with pytest.raises(SupportError, match="no such folder"):
        load_photograph_support(tmp_path / "nothing")
    with pytest.raises(SupportError, match="has no labelled pair"):
        load_photograph_support(tmp_path)
    with pytest.raises(SupportError, match="have one class, not a, b"):
        load_photograph_support(folders[1], ["a", "b"])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folders[1] / "1.png")
    with pytest.raises(SupportError, match="they must be the same"):
        load_photograph_support(folders[1])


def test_quality_is_the_iou_that_the_probabilities_expect() -> None:
    sure, unsure = np.array([0.99, 0.99, 0.01, 0.01]), np.array([0.6, 0.6, 0.4, 0.4])
    mask = np.array([True, True, False, False])
    assert quality_of(sure, mask) == pytest.approx(1.98 / 2.02)
    assert quality_of(unsure, mask) == pytest.approx(1.2 / 2.8)
    assert quality_of(np.full(4, 0.4), np.zeros(4, bool)) == 0
    assert quality_of(np.zeros(4), np.zeros(4, bool)) == 1
    photographs = [Photograph(n, n, 1, 1, 0.5, 1, q, 0.1) for n, q in (("a", 0.9), ("b", 0.2), ("c", 0.5))]
    assert [p.name for p in ranked(photographs)] == ["b", "c", "a"]


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_cocos(seed: int) -> None:
    mask = np.random.default_rng(seed).random((7, 5)) > 0.5
    runs = coco_mask.frPyObjects({"size": [7, 5], "counts": run_lengths(mask)}, 7, 5)
    np.testing.assert_array_equal(np.asarray(coco_mask.decode(runs), bool), mask)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_photographs_are_read_with_the_encoder_that_comes_with_fewscope(
    folders: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """By default; its share and both estimates of the IoU are stated."""
    photos, five = folders
    command = [str(photos), "--support", str(five), "--out", str(tmp_path / "out"), "--adapt", "0"]
    assert segment_wsi.main(command) == 0
    said = capfd.readouterr().out
    content = json.loads((tmp_path / "out/photographs.json").read_text())
    assert content["adaptation"] == "50% of the output by the encoder"
    assert 0 < content["estimated_iou"] <= 1
    assert f"estimated IoU {content['estimated_iou']:.2f}; " in said
    assert f"IoU of held-out supports {content['iou_held_out']:.2f}" in said
    assert segment_wsi.main([*command, "--overwrite", "--encoder", "none"]) == 0
    content = json.loads((tmp_path / "out/photographs.json").read_text())
    assert content["adaptation"] == "none: the network as it is"
