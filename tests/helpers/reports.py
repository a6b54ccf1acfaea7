"""Finished runs in memory, and their reports."""

from __future__ import annotations

from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from rasterio.windows import Window
from scipy import ndimage

from fewscope.pipeline.report.content import Timings, make_report
from fewscope.pipeline.report.figures import draw
from fewscope.pipeline.report.statistics import instance_statistics

HEIGHT, WIDTH = 310, 450


class FakeSource:
    """A pink image with dark discs where `labels` are, in memory."""

    def __init__(self, labels, uri="slides/a.svs", mpp=0.5):
        self.image = np.where(labels[..., None] > 0, (70, 40, 120), (235, 180, 210)).astype(np.uint8)
        height, width = labels.shape
        self.largest = 0
        self.info = SimpleNamespace(
            uri=uri,
            height=height,
            width=width,
            mpp=mpp,
            mpp_source="test",
            native_mpp=mpp,
            native_height=height,
            native_width=width,
            vendor="fake",
            crs=None,
            fingerprint="f00",
            kind="slide",
            is_field=False,
            noun="slide",
            bands="",
            notes=(),
            assumptions=(),
            channels=(),
            plane="",
            time=None,
        )

    def overview(self, max_side):
        step = -(-max(self.image.shape) // max_side)
        image = self.image[::step, ::step]
        return image, np.ones(image.shape[:2], bool)

    def read(self, window):
        self.largest = max(self.largest, window.height, window.width)
        rows = window.row_off + np.arange(window.height)
        cols = window.col_off + np.arange(window.width)
        inside = np.outer(
            (rows >= 0) & (rows < self.image.shape[0]), (cols >= 0) & (cols < self.image.shape[1])
        )
        image = self.image[rows.clip(0, len(self.image) - 1)][:, cols.clip(0, self.image.shape[1] - 1)].copy()
        image[~inside] = 255
        return image, inside


class Lazy:
    """An array that remembers the most pixels it was asked for at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        block = self.array[key]
        self.largest = max(self.largest, block.size)
        return block


def discs(height=HEIGHT, width=WIDTH, step=40, radius=9):
    row, col = np.indices((height, width))
    n = 1 + (row // step) % 3  # three sizes
    inside = (row % step - step // 2) ** 2 + (col % step - step // 2) ** 2 < (radius - n) ** 2
    return ndimage.label(inside)[0].astype(np.uint32)


def table_of(labels, probability=0.8):
    ids = np.arange(1, labels.max() + 1)
    boxes = ndimage.find_objects(labels.astype(np.int32))
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, ids)).reshape(-1, 2)
    return pa.table(
        {
            "id": ids.astype(np.int64),
            "centroid_row": centres[:, 0],
            "centroid_col": centres[:, 1],
            "area_px": np.bincount(labels.ravel(), minlength=len(ids) + 1)[1:].astype(np.int64),
            "bbox_row0": np.array([b[0].start for b in boxes], np.int64),
            "bbox_col0": np.array([b[1].start for b in boxes], np.int64),
            "bbox_row1": np.array([b[0].stop for b in boxes], np.int64),
            "bbox_col1": np.array([b[1].stop for b in boxes], np.int64),
            "mean_probability": np.full(len(ids), probability),
        }
    )


def pyramid(array):
    levels = [array]
    while max(levels[-1].shape) > 256:
        levels.append(levels[-1][::2, ::2])
    return [Lazy(level) for level in levels]


def support_of(k=2, names=None):
    rng = np.random.default_rng(1)
    labels = np.zeros((k, 224, 224), np.uint8)
    labels[:, 60:100, 60:100] = 1
    labels[:, :, :20] = 255
    images = rng.integers(0, 255, (k, 224, 224, 3), np.uint8)
    return SimpleNamespace(
        images=images,
        labels=labels,
        instances=None,
        complete=None,
        n_dense=k,
        class_names=("nucleus",),
        names=names or tuple(f"{i}.jpg" for i in range(1, k + 1)),
    )


def run_report(
    labels=None, *, k=2, uri="slides/a.svs", mpp=0.5, quality=None, held_out=None, unlike=None, **told
):
    labels = discs() if labels is None else labels
    source = FakeSource(labels, uri, mpp)
    result = SimpleNamespace(semantic=pyramid((labels > 0).astype(np.uint8)), instances=pyramid(labels))
    foreground = np.ones((31, 45), bool)
    table = ds.dataset(table_of(labels))
    found = instance_statistics(
        table, *labels.shape, foreground, seam_rows=[128, 256], seam_cols=[128, 256, 384]
    )
    told = {"class_name": "nucleus", "run": {"hash": "abc"}, "timings": Timings()} | told
    report = make_report(source.info, found, quality=quality, unlike=unlike, **told)
    windows = [Window(t.col, t.row, t.width, t.height) for t in unlike.largest] if unlike else ()
    return report, draw(source, result, found, foreground, support_of(k), held_out, windows)


class Links(HTMLParser):
    """Everything that a browser would fetch or run."""

    def __init__(self, page):
        super().__init__()
        self.fetched, self.scripts, self.text = [], 0, ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script" or any(name.startswith("on") for name, _ in attributes)
        self.fetched += [
            value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")
        ]

    def handle_data(self, data):
        self.text += data
