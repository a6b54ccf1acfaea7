"""All channels against three of them: IoU on ground that the support set has not seen.

Two synthetic scenes, made here. A tissue of five channels, in which the cells asked for are positive for three markers
and negative for a fourth, and each other kind of cell differs from them in one: no three channels tell them from all. A
scene of ten bands as of Sentinel-2, in which the crop asked for has five lookalikes, each of which differs in one part
of the spectrum alone.

Five patches are encoded as a job encodes them (`select_encoding`), once for each choice of three channels and once with
all. One JSON line each; the last one of a scene compares.

    python benchmarks/channels.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import KDTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.connectors.pixels.composite import blend, default_colours
from fewscope.connectors.pixels.stretch import stretch_channels
from fewscope.model.finetune import one_thread
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.pipeline.calibration.leave_one_out import score_held_out
from fewscope.pipeline.calibration.model_selection import select_encoding

PATCH = 224
MARKERS = ("DAPI", "CD3", "CD8", "Ki67", "PD1")
OBJECT = (1, 1, 1, 0)
"""Of the markers behind DAPI: proliferating cytotoxic T cells that are not exhausted."""

PHENOTYPES = (OBJECT, (0, 1, 1, 0), (1, 0, 1, 0), (1, 1, 0, 0), (1, 1, 1, 1), (0, 0, 0, 0))
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SPECTRA = {
    "crop": (0.04, 0.07, 0.05, 0.11, 0.28, 0.35, 0.38, 0.40, 0.20, 0.11),
    "other in the visible": (0.055, 0.09, 0.075, 0.11, 0.28, 0.35, 0.38, 0.40, 0.20, 0.11),
    "in the red edge": (0.04, 0.07, 0.05, 0.08, 0.22, 0.35, 0.38, 0.40, 0.20, 0.11),
    "in the near infrared": (0.04, 0.07, 0.05, 0.11, 0.28, 0.30, 0.32, 0.34, 0.20, 0.11),
    "at 1.6 um": (0.04, 0.07, 0.05, 0.11, 0.28, 0.35, 0.38, 0.40, 0.25, 0.11),
    "at 2.2 um": (0.04, 0.07, 0.05, 0.11, 0.28, 0.35, 0.38, 0.40, 0.20, 0.15),
    "soil": (0.08, 0.11, 0.15, 0.18, 0.20, 0.22, 0.24, 0.26, 0.33, 0.28),
    "water": (0.06, 0.05, 0.03, 0.03, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01),
}
"""Reflectances of the kinds of ground; the first is asked for. Of the usual order for such surfaces, not measured."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Values (C, H, W) uint16, with what is asked for, (H, W) bool, and the names of the channels."""

    values: NDArray[np.uint16]
    truth: NDArray[np.bool_]
    names: tuple[str, ...]


def tissue(seed: int, side: int = 1344) -> Scene:
    """Cells on a jittered grid, markers in a ring around the nucleus, with blur, shot noise and autofluorescence."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:side, :side].astype(np.float32)
    signal = np.zeros((len(MARKERS), side, side), np.float32)
    truth = np.zeros((side, side), bool)
    for top, left in itertools.product(range(16, side - 16, 32), repeat=2):
        if rng.random() < 0.15:
            continue
        y, x = (start + rng.uniform(-6, 6) for start in (top, left))
        radius, phenotype = rng.uniform(8, 13), PHENOTYPES[rng.integers(len(PHENOTYPES))]
        window = np.s_[int(y) - 16 : int(y) + 16, int(x) - 16 : int(x) + 16]
        turned, long = rng.uniform(0, np.pi), rng.uniform(1, 1.25)
        dy, dx = row[window] - y, col[window] - x
        along, across = dy * np.cos(turned) + dx * np.sin(turned), dx * np.cos(turned) - dy * np.sin(turned)
        distance = np.hypot(along / long, across * long) / radius
        cell, nucleus = distance < 1, distance < 0.6
        signal[0][window] += nucleus * rng.uniform(0.6, 1.0)
        for marker, positive in enumerate(phenotype, start=1):
            ring = nucleus if MARKERS[marker] == "Ki67" else cell & ~(distance < 0.45)
            signal[marker][window] += ring * (rng.uniform(0.5, 1.0) if positive else rng.uniform(0, 0.12))
        truth[window] |= cell & (phenotype == OBJECT)
    glow = ndimage.gaussian_filter(rng.standard_normal((side, side)), 60).astype(np.float32)
    glow = 0.12 * (glow - glow.min()) / np.ptp(glow)
    brightness = np.array([9000, 2500, 4000, 1200, 800], np.float32)
    seen = [ndimage.gaussian_filter(one, 1.2) + glow for one in signal]
    counts = rng.poisson(np.stack(seen) * brightness[:, None, None] / 20 + 5) * 20.0
    return Scene(counts.clip(0, 65535).astype(np.uint16), truth, MARKERS)


def land(seed: int, side: int = 1344) -> Scene:
    """Fields of 20 to 80 px of the kinds of `SPECTRA`, with soil showing through, haze, and noise of the sensor."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:side, :side].astype(np.float32)
    seeds = rng.uniform(0, side, (side**2 // 2000, 2))
    warp = [ndimage.gaussian_filter(rng.standard_normal((side, side)), 12) * 90 for _ in range(2)]
    places = np.stack([row + warp[0], col + warp[1]], -1).reshape(-1, 2)
    field = KDTree(seeds).query(places)[1].reshape(side, side)
    kind = rng.integers(0, len(SPECTRA), len(seeds))
    spectra = np.array(list(SPECTRA.values()), np.float32)
    cover = rng.uniform(0.85, 1.0, len(seeds)).astype(np.float32)[field]
    cover *= 1 - 0.1 * rng.random((side, side), np.float32)
    mixed = spectra[kind[field]] * cover[..., None] + spectra[list(SPECTRA).index("soil")] * (
        1 - cover[..., None]
    )
    haze = ndimage.gaussian_filter(rng.standard_normal((side, side)), 80)
    haze = 0.01 * (haze - haze.min()) / np.ptp(haze)
    mixed = mixed + haze[..., None] * np.linspace(1, 0.1, len(BANDS)) + rng.normal(0, 0.008, mixed.shape)
    values = (np.moveaxis(mixed, 2, 0) * 10_000 + 1000).clip(1, 65535).astype(np.uint16)
    return Scene(values, kind[field] == 0, BANDS)


def pixels(scene: Scene, channels: tuple[int, ...]) -> NDArray[np.uint8]:
    """The channels as a source shows them: (H, W, C) uint8."""
    chosen = scene.values[list(channels)]
    stretch = stretch_channels(chosen.reshape(len(channels), -1), None)
    return stretch(chosen)


def score(
    model: Segmenter, scene: Scene, channels: tuple[int, ...], adapt_s: float
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Five patches along the diagonal teach; the IoU over all tiles beside it, and the mask of these, (H, W)."""
    image = pixels(scene, channels)
    n = image.shape[0] // PATCH
    tiles = image[: n * PATCH, : n * PATCH].reshape(n, PATCH, n, PATCH, -1).swapaxes(1, 2)
    truth = scene.truth[: n * PATCH, : n * PATCH].reshape(n, PATCH, n, PATCH).swapaxes(1, 2).astype(np.uint8)
    taught = [(i, i) for i in range(5)]
    images = np.stack([tiles[place] for place in taught])
    labels = np.stack([truth[place] for place in taught])[None]
    began = time.process_time()
    encoding = select_encoding(model, images, labels, None, adapt_s)
    held_out = encoding.held_out[0]
    threshold = score_held_out(held_out, labels[0]).threshold if held_out is not None else 0.5
    encoded = time.process_time() - began
    asked = [(i, j) for i in range(n) for j in range(n) if i != j]
    began = time.process_time()
    with one_thread():
        found = (
            model.predict(np.stack([tiles[place] for place in asked]), encoding.features)[:, 0] >= threshold
        )
    true = np.stack([truth[place] for place in asked]) == 1
    whole = np.zeros((n, n, PATCH, PATCH), bool)
    for place, mask in zip(asked, found, strict=True):
        whole[place] = mask
    row = {
        "channels": [scene.names[c] for c in channels],
        "iou": round(float((found & true).sum() / (found | true).sum()), 3),
        "held_out_iou": round(encoding.selected_iou or 0.0, 3),
        "encoding": str(encoding.options),
        "encode_cpu_s": round(encoded, 1),
        "tile_cpu_ms": round(1000 * (time.process_time() - began) / len(asked), 1),
    }
    return row, whole.swapaxes(1, 2).reshape(n * PATCH, n * PATCH)


def draw(path: Path, scene: Scene, found: dict[str, NDArray[np.bool_]]) -> None:
    """A part of the scene as people see it, then what was found there: right in green, missed in red, false in blue."""
    part = np.s_[:PATCH, PATCH : 3 * PATCH]
    shown = blend(pixels(scene, tuple(range(len(scene.names))))[part], default_colours(len(scene.names)))
    panels = [("all channels, each in its colour", shown)]
    for title, mask in found.items():
        mask, truth = mask[part], scene.truth[part]
        right, missed, false = (mask & truth, truth & ~mask, mask & ~truth)
        panels.append((title, np.stack([missed, right, false], -1).astype(np.uint8) * 220))
    sheet = Image.new("RGB", (2 * PATCH, len(panels) * (PATCH + 18)), "white")
    for i, (title, picture) in enumerate(panels):
        sheet.paste(Image.fromarray(picture), (0, i * (PATCH + 18) + 18))
        ImageDraw.Draw(sheet).text((4, i * (PATCH + 18) + 3), title, "black")
    sheet.save(path)


def main() -> None:
    """Every choice of three channels of the tissue, three usual ones of the land, and all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenes", nargs="+", choices=("tissue", "land"), default=["tissue", "land"])
    parser.add_argument("--adapt", type=float, default=30.0)
    parser.add_argument("--figure", type=Path, help="PNG of a part of the first scene, with what was found")
    args = parser.parse_args()
    model = load_segmenter()
    usual = [tuple(map(BANDS.index, names)) for names in (("B04", "B03", "B02"), ("B08", "B04", "B03"))]
    usual += [tuple(map(BANDS.index, ("B12", "B08", "B04"))), tuple(map(BANDS.index, ("B11", "B05", "B03")))]
    for name in args.scenes:
        three, every = [], []
        for seed in args.seeds:
            scene = tissue(seed) if name == "tissue" else land(seed)
            choices = list(itertools.combinations(range(len(MARKERS)), 3)) if name == "tissue" else usual
            whole = tuple(range(len(scene.names)))
            scores, masks = [], {}
            for channels in (*choices, whole):
                row, mask = score(model, scene, channels, args.adapt)
                print(json.dumps({"scene": name, "seed": seed} | row), flush=True)
                scores.append(row["iou"])
                masks[", ".join(row["channels"]) + f": IoU {row['iou']:.2f}"] = mask
            three.append(scores[:-1])
            every.append(scores[-1])
            if args.figure and name == args.scenes[0] and seed == args.seeds[0]:
                titles = list(masks)
                best_of_three = titles[int(np.argmax(scores[:-1]))]
                draw(args.figure, scene, {title: masks[title] for title in (best_of_three, titles[-1])})
        by_choice = np.array(three).mean(0)
        result = {
            "best_three": round(float(by_choice.max()), 3),
            "mean_three": round(float(by_choice.mean()), 3),
        }
        best = [scene.names[c] for c in choices[int(by_choice.argmax())]]
        result |= {
            "all": round(float(np.mean(every)), 3),
            "best_three_channels": best,
            "seeds": len(args.seeds),
        }
        print(json.dumps({"scene": name} | result), flush=True)


if __name__ == "__main__":
    main()
