"""Stand-ins for what a preview computes with: a source in memory, and a settled network that goes by colour."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from affine import Affine
from rasterio.windows import Window

from fewscope.annotate.preview import Preview, PreviewEvent
from fewscope.connectors.source import Pixels, SourceInfo
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import SourceError


class ArraySource:
    """A raster of an image (H, W, 3) uint8 in memory; reading what touches `broken` fails."""

    def __init__(self, image: np.ndarray, broken: Window | None = None, name: str = "array.tif") -> None:
        self.image, self.broken = image, broken
        self.n_reads = 0
        height, width = image.shape[:2]
        self.info = SourceInfo(
            uri=name, kind="raster", height=height, width=width, transform=Affine.identity(), mpp=None,
            mpp_source="", native_mpp=None, native_height=height, native_width=width, vendor="array", crs=None,
            background=(255, 255, 255), fingerprint=name,
        )  # fmt: skip

    def read(self, window: Window) -> Pixels:
        self.n_reads += 1
        row, col, height, width = (
            int(v) for v in (window.row_off, window.col_off, window.height, window.width)
        )
        if self.broken is not None and self._touches(row, col, height, width):
            raise SourceError(f"{self.info.uri}: a block cannot be decoded; copy the file again")
        out = np.full((height, width, 3), 255, np.uint8)
        valid = np.zeros((height, width), bool)
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.info.height), min(col + width, self.info.width)
        if top < bottom and left < right:
            here = np.s_[top - row : bottom - row, left - col : right - col]
            out[here], valid[here] = self.image[top:bottom, left:right], True
        return out, valid

    def _touches(self, row: int, col: int, height: int, width: int) -> bool:
        bad = self.broken
        assert bad is not None
        return (
            row < bad.row_off + bad.height
            and bad.row_off < row + height
            and col < bad.col_off + bad.width
            and bad.col_off < col + width
        )

    def overview(self, max_side: int) -> Pixels:
        step = max(1, -(-max(self.image.shape[:2]) // max_side))
        image = np.ascontiguousarray(self.image[::step, ::step])
        return image, np.ones(image.shape[:2], bool)

    def unreadable(self, max_side: int | None = None) -> tuple[Window, ...]:
        return ()

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class ColourMaps:
    """What the stand-in keeps of tiles: the tiles."""

    tiles: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.tiles.nbytes


@dataclass(frozen=True)
class ColourPack:
    """All that the stand-in learns."""

    n_classes: int


@dataclass
class ColourSettled:
    """Class c is what is bright in channel c, for as many classes as the support set has.

    `open` holds back packs while it is cleared, `n_maps`, `n_to_answer` and `packed` say what was computed.
    """

    open: threading.Event = field(default_factory=threading.Event)
    n_maps: int = 0
    n_to_answer: int = 0
    packed: list[int] = field(default_factory=list)
    side: int = 128

    def maps(self, tiles: np.ndarray, to_answer: bool = True) -> ColourMaps:
        self.n_maps += 1
        self.n_to_answer += to_answer
        return ColourMaps(tiles)

    def pack(self, images: np.ndarray, labels: np.ndarray) -> ColourPack:
        assert self.open.wait(20)
        self.packed.append(len(images))
        return ColourPack(len(labels) if labels.ndim == 4 else 1)

    def answer(self, maps: ColourMaps, pack: ColourPack) -> np.ndarray:
        return np.moveaxis(maps.tiles[..., : pack.n_classes], 3, 1).astype(np.float32) / np.float32(255)

    def examples(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Mean grey of what is labelled."""
        return float(images[(labels != 255).any(axis=0)].mean())

    def unlike(self, maps: ColourMaps, examples: float) -> np.ndarray:
        """Difference of grey, at stride 16."""
        n, height, width, _ = maps.tiles.shape
        squares = maps.tiles.reshape(n, height // 16, 16, width // 16, 16, 3).mean(axis=(2, 4, 5))
        return np.abs(squares - examples).astype(np.float32) / np.float32(255)

    def features(self, maps: ColourMaps) -> np.ndarray:
        """Colours at stride 16, of length 1."""
        n, height, width, _ = maps.tiles.shape
        squares = maps.tiles.reshape(n, height // 16, 16, width // 16, 16, 3).mean(axis=(2, 4))
        found = np.moveaxis(squares, 3, 1).astype(np.float32) + 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


class ColourSegmenter:
    """A segmenter that settles to a `ColourSettled`."""

    def __init__(self) -> None:
        self.made = ColourSettled()
        self.made.open.set()

    def settled(self, images: np.ndarray, side: int = 128, encoder_share: float = 0) -> ColourSettled:
        return self.made


class Heard:
    """Listens to a preview and waits for its states."""

    def __init__(self) -> None:
        self.events: list[PreviewEvent] = []
        self._new = threading.Condition()

    def __call__(self, event: PreviewEvent) -> None:
        with self._new:
            self.events.append(event)
            self._new.notify_all()

    def wait(self, wanted: object, timeout: float = 30) -> PreviewEvent:
        """The first event that is as wanted, from the first of all on."""
        assert callable(wanted)

        def found() -> PreviewEvent | None:
            return next((event for event in self.events if wanted(event)), None)

        with self._new:
            event = self._new.wait_for(found, timeout)
        assert event is not None, [e.status for e in self.events]
        return event

    def ready(self, revision: int, source: int = 0) -> PreviewEvent:
        """Waits until a revision is ready."""
        return self.wait(
            lambda e: e.source == source and e.status.state == "ready" and e.status.revision == revision
        )


def support_of(n_patches: int = 1, n_classes: int = 1) -> SupportSet:
    """Grey patches with a square of each class."""
    images = np.full((n_patches, 224, 224, 3), 100, np.uint8)
    labels = np.zeros((n_patches, 224, 224), np.uint8)
    for c in range(n_classes):
        labels[:, 30 * c : 30 * c + 20, :20] = c + 1
    names = tuple(f"patch {k}" for k in range(n_patches))
    return SupportSet(images, labels, None, names, None, tuple(f"class {c}" for c in range(n_classes)))


def preview_of(
    sources: Sequence[ArraySource], heard: Heard | None = None, threads: int = 2
) -> tuple[Preview, ColourSettled]:
    """A preview that goes by colour, and what it computes with."""
    segmenter = ColourSegmenter()
    preview = Preview(segmenter, sources, on_event=heard or Heard(), threads=threads)  # type: ignore[arg-type]
    return preview, segmenter.made
