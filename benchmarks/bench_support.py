"""What encoding the support set once saves, over encoding it again with every tile, as few-shot programs do.

    python benchmarks/bench_support.py
    python benchmarks/bench_support.py --models vgg16-released --tiles 4 --dtypes float32

Both sides predict the same tiles with the same network, number format and threads; the weights are random, which costs
the same. `ratio` is with one tile at a time, as the published code of the relation network works: it encodes five
support patches for each query. `ratio_batch` encodes them again for each batch of eight tiles only. `cpu_ratio` is of
processor seconds, which a busy machine does not bend: read it with --threads 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import synthetic
from benchmarks.records import emit
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.relation import RelationNet
from fewscope.model.segmenter import Segmenter
from fewscope.model.views import SupportFeatures, View, as_tensor

TARGETS = {"vgg16-released": 3.0, "compact": None}
BATCH = 8


def network(name: str) -> torch.nn.Module:
    """A network with random weights, always the same."""
    torch.manual_seed(0)
    return RelationNet("released") if name == "vgg16-released" else CompactNet()


def tiles_and_support(n_tiles: int, shots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles (N, 224, 224, 3), support images (K, 224, 224, 3) and labels (K, 224, 224), uint8."""
    picture = synthetic.tissue()
    random = np.random.default_rng(0)
    corners = random.integers(0, len(picture) - 224, (n_tiles + shots, 2))
    cut = np.stack([picture[r : r + 224, c : c + 224] for r, c in corners])
    labels = np.stack([synthetic.is_object(image) for image in cut[n_tiles:]]).astype(np.uint8)
    return cut[:n_tiles], cut[n_tiles:], labels


def seconds_per_tile(
    net: torch.nn.Module, name: str, dtype: torch.dtype, batch: int, data: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds per tile, of clock and processor: support set encoded once (not counted), and again for each batch."""
    tiles, images, labels = data
    segmenter = Segmenter(net, name, device="cpu", dtype=dtype, batch_size=batch)
    features = segmenter.encode(images, labels)
    again = _encoder(segmenter, images, labels)

    def cached() -> None:
        for start in range(0, len(tiles), batch):
            segmenter.predict(tiles[start : start + batch], features)

    def encoded_again() -> None:
        for start in range(0, len(tiles), batch):
            segmenter.predict(tiles[start : start + batch], again())

    segmenter.predict(tiles[:batch], again())  # both have been run before the clock starts
    segmenter.predict(tiles[:batch], features)
    return _seconds(cached) / len(tiles), _seconds(encoded_again) / len(tiles)


def _encoder(segmenter: Segmenter, images: np.ndarray, labels: np.ndarray) -> Callable[[], SupportFeatures]:
    """Encodes the support set in the number format that tiles are predicted in, as a program without a cache would."""
    x = as_tensor(images, segmenter.device).float() / 255
    y = torch.from_numpy(labels)[:, None].float()
    seen = []
    for side in segmenter.sides:
        size = (side, side)
        pictures = F.interpolate(x, size=size, mode="bilinear", antialias=True).to(segmenter.dtype)
        foreground = F.interpolate(y, size=size, mode="nearest-exact").to(segmenter.dtype)
        seen.append((side, pictures, foreground))
    network: Any = segmenter._faster(segmenter._exact, segmenter.dtype)
    n_calls = 0

    @torch.inference_mode()
    def encode() -> SupportFeatures:
        nonlocal n_calls
        n_calls += 1
        views = [View(side, (network.compile_support(x, one, 1 - one),)) for side, x, one in seen]
        return SupportFeatures(tuple(views), len(images), f"call {n_calls}")

    return encode


def _seconds(task: Callable[[], None]) -> np.ndarray:
    """Seconds of the clock and of the processor."""
    began, cpu = time.perf_counter(), time.process_time()
    task()
    return np.array([time.perf_counter() - began, time.process_time() - cpu])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="default both")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    add("--tiles", type=int, default=16, help="tiles to predict (default 16)")
    add("--shots", type=int, default=5, help="support patches (default 5)")
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """A line per model and number format."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    data = tiles_and_support(args.tiles, args.shots)
    for name in args.models:
        net = network(name)
        for dtype in args.dtypes:
            one, one_again = seconds_per_tile(net, name, getattr(torch, dtype), 1, data)
            many, many_again = seconds_per_tile(net, name, getattr(torch, dtype), BATCH, data)
            emit(
                "support",
                {
                    "ratio": float(one_again[0] / one[0]),
                    "target": TARGETS[name],
                    "cpu_ratio": float(one_again[1] / one[1]),
                    "ratio_batch": float(many_again[0] / many[0]),
                    "cpu_ratio_batch": float(many_again[1] / many[1]),
                    "model": name,
                    "dtype": dtype,
                    "shots": args.shots,
                    "tiles": args.tiles,
                    "batch": BATCH,
                    "threads": torch.get_num_threads(),
                    "cached_ms_per_tile": 1000 * float(one[0]),
                    "encoded_again_ms_per_tile": 1000 * float(one_again[0]),
                    "cached_ms_per_tile_in_batches": 1000 * float(many[0]),
                    "encoded_again_ms_per_tile_in_batches": 1000 * float(many_again[0]),
                },
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
