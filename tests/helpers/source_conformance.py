"""What every Source promises, as a test class to inherit from: give it ``source`` and run."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from rasterio.windows import Window

from fewscope.connectors.source import MeasurableSource, Source, SourceInfo

WHOLES: WeakKeyDictionary = WeakKeyDictionary()  # one read of the whole for each source that is open


def same_pixels(first, second) -> bool:
    """Image and valid are equal to the bit."""
    return np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


def windows_of(info: SourceInfo, seed: int, n: int, side: int = 300) -> list[Window]:
    """Windows that start anywhere inside and may reach outside."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-20, info.height, n)
    cols = rng.integers(-20, info.width, n)
    sizes = rng.integers(1, side, (n, 2))
    return [Window(int(c), int(r), int(w), int(h)) for r, c, (h, w) in zip(rows, cols, sizes, strict=True)]


class SourceConformance:
    """Inherit, and provide a fixture ``source`` (small enough to be read as a whole)."""

    @pytest.fixture
    def whole(self, source: Source):
        if source not in WHOLES:
            WHOLES[source] = source.read(Window(0, 0, source.info.width, source.info.height))
        return WHOLES[source]

    def test_is_a_source_with_the_shapes_it_states(self, source, whole):
        assert isinstance(source, Source)
        info = source.info
        assert whole[0].shape == (info.height, info.width, info.n_channels)
        assert whole[0].dtype == np.uint8
        assert whole[1].shape == (info.height, info.width)
        assert whole[1].dtype == np.bool_

    def test_a_window_is_the_crop_of_the_whole(self, source, whole):
        height, width = source.info.height, source.info.width
        for window in windows_of(source.info, seed=0, n=12):
            image, valid = source.read(window)
            row, col = window.row_off, window.col_off
            top, left = max(row, 0), max(col, 0)
            bottom = max(top, min(row + window.height, height))
            right = max(left, min(col + window.width, width))
            inner = (slice(top - row, bottom - row), slice(left - col, right - col))
            assert np.array_equal(image[inner], whole[0][top:bottom, left:right]), window
            assert np.array_equal(valid[inner], whole[1][top:bottom, left:right]), window
            outside = np.ones(valid.shape, bool)
            outside[inner] = False
            assert not valid[outside].any(), window
            assert (image[outside] == source.info.background).all(), window

    def test_what_is_measured_in_a_window_is_the_crop_of_the_whole(self, source, whole):
        info = source.info
        if not isinstance(source, MeasurableSource):
            assert len(info.measured) in (0, 3)
            return
        values = source.read_measured(Window(0, 0, info.width, info.height))
        assert values.shape == (info.height, info.width, len(info.measured))
        assert values.dtype == np.uint16
        assert not values[~whole[1]].any()
        for window in windows_of(info, seed=1, n=6):
            part = source.read_measured(window)
            row, col = window.row_off, window.col_off
            top, left = max(row, 0), max(col, 0)
            bottom = max(top, min(row + window.height, info.height))
            right = max(left, min(col + window.width, info.width))
            inner = (slice(top - row, bottom - row), slice(left - col, right - col))
            assert np.array_equal(part[inner], values[top:bottom, left:right]), window

    def test_what_is_not_valid_is_background(self, source, whole):
        assert (whole[0][~whole[1]] == source.info.background).all()

    def test_a_window_far_outside_is_background(self, source):
        info = source.info
        image, valid = source.read(Window(info.width + 100, info.height + 5, 7, 3))
        assert image.shape == (3, 7, info.n_channels)
        assert not valid.any()
        assert (image == info.background).all()

    def test_windows_of_parts_of_pixels_are_refused(self, source):
        with pytest.raises(ValueError, match="whole pixels"):
            source.read(Window(0.5, 0, 4, 4))

    def test_overview_keeps_the_aspect_and_is_never_enlarged(self, source):
        info = source.info
        longer = max(info.height, info.width)
        for max_side in (1, longer // 3 + 1, 4 * longer):
            image, valid = source.overview(max_side)
            assert image.shape[:2] == valid.shape
            assert max(valid.shape) == min(max_side, longer)
            shrink = longer / max(valid.shape)
            assert abs(valid.shape[0] - info.height / shrink) <= 1
            assert abs(valid.shape[1] - info.width / shrink) <= 1

    def test_a_pickled_source_reads_the_same(self, source):
        copy = pickle.loads(pickle.dumps(source))
        assert copy.info == source.info
        for window in windows_of(source.info, seed=1, n=3):
            assert same_pixels(copy.read(window), source.read(window))
        copy.close()

    def test_threads_read_what_one_reader_reads(self, source):
        windows = windows_of(source.info, seed=2, n=16, side=120)
        alone = [source.read(window) for window in windows]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(source.read, windows))
        for window, first, second in zip(windows, alone, together, strict=True):
            assert same_pixels(first, second), window

    def test_reading_after_close_is_an_error_and_closing_twice_is_not(self, source):
        copy = pickle.loads(pickle.dumps(source))
        copy.close()
        copy.close()
        with pytest.raises(ValueError, match="closed"):
            copy.read(Window(0, 0, 4, 4))
