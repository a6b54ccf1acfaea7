"""Stand-ins for the model: small, exact, picklable, importable by Ray's workers. And a slide and a support set.

A worker of Ray imports this for the model's class: what it does not need is imported where it is used.

Run as a program, this segments a slide with one of them, as a job would: what the tests of resuming kill.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool

if TYPE_CHECKING:
    from fewscope.pipeline.report.figures import Pictures

MPP = 0.5
HEIGHT, WIDTH = 500, 600


@dataclass(frozen=True)
class Features:
    digest: str


class ByColour:
    """Object where the picture is redder than blue, the more the surer: each pixel by itself."""

    name = "by-colour"
    weights_digest = "none"

    def encode(self, images: np.ndarray, labels: np.ndarray) -> Features:
        return Features(f"{images.sum()} {labels.sum()}")

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        return colour_probability(tiles)[:, None]


def colour_probability(image: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 -> float32 in [0, 1], in whole 255ths: what is stored is what the model said."""
    difference = image[..., 0].astype(np.int16) - image[..., 2]
    return ((difference + 255) // 2).astype(np.float32) / np.float32(255)


class Certain(ByColour):
    """Says 1 everywhere."""

    name = "certain"

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        return np.ones((len(tiles), 1, *tiles.shape[1:3]), np.float32)


class ByPlace(ByColour):
    """Depends on where a pixel lies in its tile, so that blending shows: what overlap is for."""

    name = "by-place"

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        rows, cols = np.indices(tiles.shape[1:3], np.float32) / tiles.shape[1]
        shifted = np.clip(colour_probability(tiles) + 0.2 * (rows - cols), 0, 1)
        return shifted[:, None].astype(np.float32)


class ByDepth(ByColour):
    """`ByColour`, and depth where it is green: each pixel by itself."""

    name = "by-depth"
    has_depth = True

    def predict(self, tiles: np.ndarray, features: Features, depth: bool = False) -> np.ndarray:
        maps = [colour_probability(tiles)]
        if depth:
            maps.append(tiles[..., 1].astype(np.float32) / np.float32(255))
        return np.stack(maps, axis=1)


class ByChannel(ByColour):
    """Class 1 is what is red, class 2 green, class 3 blue: as many as the support set has. Each pixel by itself."""

    name = "by-channel"

    def encode(self, images: np.ndarray, labels: np.ndarray) -> int:
        return len(labels) if labels.ndim == 4 else 1

    def predict(self, tiles: np.ndarray, features: int) -> np.ndarray:
        return np.moveaxis(tiles[..., :features], 3, 1).astype(np.float32) / np.float32(255)


class Coarse(ByColour):
    """`ByColour` of squares of 16 px: in real pictures that sees specks by the thousand, which take long to trace."""

    name = "coarse"

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        n, height, width, _ = tiles.shape
        squares = tiles.reshape(n, height // 16, 16, width // 16, 16, 3).mean(axis=(2, 4))
        found = colour_probability(squares.astype(np.uint8))
        return found.repeat(16, axis=1).repeat(16, axis=2)[:, None]


class ByExample(ByColour):
    """Each class is what is redder than blue, or what is not, whichever its labelled pixels are."""

    name = "by-example"

    def encode(self, images: np.ndarray, labels: np.ndarray) -> tuple[bool, ...]:
        of_classes = labels if labels.ndim == 4 else labels[None]
        return tuple(bool(np.median(colour_probability(images)[of == 1]) >= 0.5) for of in of_classes)

    def predict(self, tiles: np.ndarray, features: tuple[bool, ...]) -> np.ndarray:
        red = colour_probability(tiles)
        return np.stack([red if is_red else 1 - red for is_red in features], axis=1).astype(np.float32)


class Slow(ByColour):
    """Takes its time, and writes down every batch: ``process tiles`` a line of the file `log`."""

    def __init__(self, log: str, seconds_per_batch: float) -> None:
        self.log, self.seconds = log, seconds_per_batch

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        time.sleep(self.seconds)
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {len(tiles)}\n")
        return colour_probability(tiles)[:, None]


class DiesOnce(ByColour):
    """Takes its process with it in the first batch of all, as a machine that is taken away."""

    def __init__(self, flag: str) -> None:
        self.flag = Path(flag)

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        if len(tiles) > 1 and not self.flag.exists():
            self.flag.write_text(str(os.getpid()))
            os._exit(1)
        return colour_probability(tiles)[:, None]


POISON = (255, 0, 255)


class DiesOfPoison(ByColour):
    """Takes its process with it where a pixel has one colour, as a file that crashes its decoder."""

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        if (tiles == POISON).all(axis=-1).any():
            os._exit(1)
        return super().predict(tiles, features)


class HangsOnce(ByColour):
    """Does not come back from the first batch of all."""

    def __init__(self, flag: str) -> None:
        self.flag = Path(flag)

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        if len(tiles) > 1 and not self.flag.exists():
            self.flag.write_text(str(os.getpid()))
            time.sleep(3600)
        return super().predict(tiles, features)


class DiesAlways(ByColour):
    """Takes its process with it whenever it has work to do."""

    def predict(self, tiles: np.ndarray, features: Features) -> np.ndarray:
        os._exit(1)


def cannot_load() -> ByColour:
    """A loader whose weights are missing on the worker's machine."""
    raise ValueError("weights.safetensors: no such file; copy it to every machine")


def crashes_loading() -> ByColour:
    """A loader that takes its process with it."""
    os._exit(1)


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Red blobs of all sizes on blue, some over many units; uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((height // 10 + 2, width // 10 + 2))
    smooth = np.kron(noise, np.ones((10, 10)))[:height, :width]
    fine = np.kron(rng.standard_normal((height // 3 + 1, width // 3 + 1)), np.ones((3, 3)))[:height, :width]
    red = np.clip(
        128 + 50 * smooth + 10 * fine, 0, 200
    )  # rougher, tracing the largest would take most of a test
    red[height // 2 : height // 2 + 5] = 200  # one object from edge to edge, and one that crosses it
    red[:, width // 3 : width // 3 + 3] = 200
    return np.stack([red, np.full_like(red, 60), 200 - red], axis=-1).astype(np.uint8)


def write_slide(path: Path, image: np.ndarray | None = None, mpp: float | None = MPP) -> str:
    """Write a slide that keeps every pixel; its path."""
    write_pyramid(path, picture() if image is None else image, mpp, tile=128)
    return str(path)


def write_damaged_slide(path: Path) -> str:
    """The slide in JPEG tiles of 256 px; the scan of the first one is zeros. Its path."""
    import rasterio

    write_pyramid(path, picture(), MPP, tile=256, compress="jpeg", overviews=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as tiff:
            start = int(tiff.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xda", start)
    data[start : start + 400] = bytes(400)
    path.write_bytes(data)
    return str(path)


def write_support(
    folder: Path, image: np.ndarray | None = None, mpp: float = MPP, invert: bool = False
) -> str:
    """A support set of three 224 px patches of `image`, labelled as `ByColour` would, or inversely; its path."""
    from PIL import Image

    image = picture() if image is None else image
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True)
    for k, (row, col) in enumerate([(0, 0), (100, 200), (250, 300)]):
        patch = image[row : row + 224, col : col + 224]
        Image.fromarray(patch).save(folder / "image" / f"{k}.png")
        label = ((colour_probability(patch) >= 0.5) ^ invert).astype(np.uint8) * 255
        Image.fromarray(label).save(folder / "label" / f"{k}.png")
    (folder / "support.json").write_text(json.dumps({"mpp": mpp, "class": "blob"}))
    return str(folder)


CLASSES = ("red", "green", "blue")


def class_picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Patches of three colours that meet and overlap, one of each from edge to edge; uint8 (height, width, 3)."""
    rng = np.random.default_rng(3)
    channels = []
    for c in range(3):
        coarse = np.kron(rng.standard_normal((height // 9 + 1, width // 9 + 1)), np.ones((9, 9)))
        fine = np.kron(rng.standard_normal((height // 3 + 1, width // 3 + 1)), np.ones((3, 3)))
        channel = np.clip(105 + 40 * coarse[:height, :width] + 6 * fine[:height, :width], 0, 240)
        channel[c * height // 3 + 20 : c * height // 3 + 24] = 241 + c
        channel[:, c * width // 3 + 20 : c * width // 3 + 23] = 250 - c
        channels.append(channel)
    return np.stack(channels, axis=-1).astype(np.uint8)


def class_map(image: np.ndarray) -> np.ndarray:
    """What `ByChannel` sees in a picture at a threshold of 0.5: 0 nothing, 1..3 the class; uint8 (H, W)."""
    return np.where(image.max(axis=2) >= 128, image.argmax(axis=2) + 1, 0).astype(np.uint8)


def write_class_support(folder: Path, image: np.ndarray | None = None) -> str:
    """A support set of three classes in one mask, with outlined objects, labelled as `ByChannel` would; its path."""
    from PIL import Image
    from scipy import ndimage

    image = class_picture() if image is None else image
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True)
    for k, (row, col) in enumerate([(0, 0), (100, 200), (250, 300)]):
        patch = image[row : row + 224, col : col + 224]
        classes = class_map(patch)
        objects = np.zeros(classes.shape, np.uint16)
        for value in (1, 2, 3):
            found, _ = ndimage.label(classes == value, np.ones((3, 3)))
            objects[found > 0] = found[found > 0]  # the same numbers in each class
        Image.fromarray(patch).save(folder / "image" / f"{k}.png")
        Image.fromarray(classes).save(folder / "label" / f"{k}.png")
        Image.fromarray(objects).save(folder / "label" / f"{k}.inst.png")
    (folder / "support.json").write_text(json.dumps({"mpp": MPP, "classes": list(CLASSES)}))
    return str(folder)


def no_pictures(*_: object) -> Pictures:
    """Instead of `pipeline.report.figures.draw`, which takes longer than all the rest on a slide this small."""
    from fewscope.pipeline.report.drawing import picture as drawn
    from fewscope.pipeline.report.figures import Pictures

    nothing = drawn(np.zeros((8, 8, 3), np.uint8), 8)
    return Pictures(nothing, None, (), (), (), 0)


def outputs(out: Path) -> dict[str, bytes]:
    """The bytes that must not depend on who did the work: every file of the store, the tables, the outlines."""
    files = [path for path in (out / "result.zarr").rglob("*") if path.is_file()]
    files += [out / "instances.parquet", out / "instances.geojson.gz"]
    found = {str(path.relative_to(out)): path.read_bytes() for path in files}
    report = json.loads((out / "report.json").read_text())
    for name in ("timings", "seams"):  # seams between units are where the units say
        del report[name]
    report["notes"] = [note for note in report["notes"] if "seam" not in note]
    del report["run"]["work"], report["run"]["source"]["file"]
    found["report.json"] = json.dumps(report).encode()
    return found


def main() -> None:
    """Segment with a slow model: ``fakes.py CONFIG.json {local,ray} LOG SECONDS``."""
    from fewscope.pipeline.execution.ray_pool import RayPool
    from fewscope.pipeline.run import segment

    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("pool", choices=("local", "ray"))
    parser.add_argument("log")
    parser.add_argument("seconds", type=float)
    args = parser.parse_args()
    config = SegmentConfig(**json.loads(Path(args.config).read_text()))
    load = functools.partial(Slow, args.log, args.seconds)
    with LocalPool(load) if args.pool == "local" else RayPool(load, 2) as pool:
        segment(config, pool, ByColour())


if __name__ == "__main__":
    # by this name, so that what travels to workers is called fakes.Slow there, not __main__.Slow
    from tests.helpers import fakes

    fakes.main()


def low_red_dots(rng, k=3, side=48, leak=0):
    """(K, side, side, 3) grey noise with squares whose red is low; `leak` lowers red outside the labelled middle."""
    images = rng.integers(150, 220, (k, side, side, 1), np.uint8).repeat(3, axis=3)
    labels = np.full((k, side, side), 255, np.uint8)
    labels[:, 8:-8, 8:-8] = 0
    for i in range(k):
        row, col = rng.integers(12, side - 24, 2)
        images[i, row : row + 10, col : col + 10, 0] = 90
        labels[i, row : row + 10, col : col + 10] = 1
    images[:, :8, :, 0] -= leak
    return images, labels
