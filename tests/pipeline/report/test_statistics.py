"""The numbers of a report are those of the table."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fewscope.pipeline.report.content import Timings, make_report
from fewscope.pipeline.report.render import render
from fewscope.pipeline.report.statistics import area_mean, instance_statistics
from tests.helpers.reports import (
    HEIGHT,
    WIDTH,
    FakeSource,
    Links,
    discs,
    run_report,
    table_of,
)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 7), st.floats(0, 1))
def test_sizes_and_samples_are_those_of_the_sorted_table(areas, n_samples, q):
    n = len(areas)
    zeros = np.zeros(n)
    table = pa.table(
        {"id": np.arange(1, n + 1), "area_px": np.array(areas, np.int64)}
        | dict.fromkeys(
            ("centroid_row", "centroid_col", "bbox_row0", "bbox_col0", "bbox_row1", "bbox_col1"), zeros
        )
    )
    found = instance_statistics(table, 100, 100, np.ones((10, 10), bool), n_samples=n_samples)
    assert found.count == n
    assert found.covered_px == sum(areas)
    if n:
        assert found.quantile(q) == pytest.approx(np.quantile(areas, q))
        order = np.lexsort((np.arange(n), areas))
        ranks = (
            np.linspace(0, n - 1, min(n, n_samples)).round().astype(int)
            if min(n, n_samples) > 1
            else [n // 2]
        )
        assert [row["id"] for row in found.samples] == [int(order[rank]) + 1 for rank in ranks]


def test_how_the_table_is_cut_into_batches_does_not_matter(monkeypatch):
    table = table_of(discs())
    whole = instance_statistics(table, HEIGHT, WIDTH, np.ones((31, 45), bool), seam_rows=[256])
    monkeypatch.setattr("fewscope.pipeline.report.statistics.BATCH_ROWS", 7)
    for cut in (table, ds.dataset(table)):
        again = instance_statistics(cut, HEIGHT, WIDTH, np.ones((31, 45), bool), seam_rows=[256])
        assert again.samples == whole.samples
        assert again.seams == whole.seams
        np.testing.assert_array_equal(again.grid, whole.grid)
        np.testing.assert_array_equal(again.field_counts, whole.field_counts)


def test_every_object_is_in_one_density_cell():
    found = instance_statistics(table_of(discs()), HEIGHT, WIDTH, np.ones((31, 45), bool))
    assert found.grid.sum() == found.count == discs().max()


def test_areas_and_densities_by_hand():
    foreground = np.zeros((31, 90), bool)
    foreground[:, :45] = True  # the left half is tissue
    found = instance_statistics(table_of(discs()), HEIGHT, WIDTH, foreground)
    info = FakeSource(discs()).info
    report = make_report(info, found, class_name="n", run={}, timings=Timings(), unreadable_px=9_750)
    assert report.area_px == pytest.approx(HEIGHT * WIDTH / 2 - 9_750)
    assert report.area_mm2 == pytest.approx(report.area_px * 0.25e-6)
    assert report.density_per_mm2 == pytest.approx(report.count / report.area_mm2)
    assert report.unreadable_fraction == pytest.approx(9_750 / 69_750)
    assert report.covered_fraction == pytest.approx((discs() > 0).sum() / 60_000)
    assert report.sizes.median_area_um2 == pytest.approx(np.median(np.bincount(discs().ravel())[1:]) / 4)


def test_the_covered_area_has_an_interval_and_is_at_most_all_there_is():
    report, pictures = run_report(covered_ratio=(0.9, 1.2))
    assert report.covered_interval_px == pytest.approx((0.9 * report.covered_px, 1.2 * report.covered_px))
    text = " ".join(Links(render(report, pictures)).text.split())
    assert "95 % interval" in text
    assert json.loads(report.to_json())["covered_interval_px"] == list(report.covered_interval_px)
    report, _ = run_report(covered_ratio=(0.9, 1e9))
    assert report.covered_interval_px[1] == report.area_px
    report, pictures = run_report()
    assert report.covered_interval_px is None
    assert "95 % interval" not in Links(render(report, pictures)).text


def test_no_interval_of_an_area_is_negative():
    report, _ = run_report(covered_ratio=(-0.2, 1.0))
    assert report.covered_interval_px == (0.0, report.covered_px)
    assert report.covered_estimate_px == pytest.approx(0.4 * report.covered_px)


def test_the_histograms_hold_every_object_once(plain):
    report, _ = plain
    for histogram in (report.sizes.area, report.sizes.diameter):
        assert sum(histogram.counts) + histogram.beyond == report.count
        assert len(histogram.edges) == len(histogram.counts) + 1


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 25), st.integers(1, 25))
def test_area_mean_keeps_the_mean_and_equals_block_means(height, width, rows, cols):
    array = np.random.default_rng(height * 41 + width).random((height, width))
    means = area_mean(array, np.linspace(0, height, rows + 1), np.linspace(0, width, cols + 1))
    assert means.shape == (rows, cols)
    assert means.mean() == pytest.approx(array.mean())
    repeated = np.kron(array, np.ones((rows, cols)))  # fine enough that every box is whole pixels
    truth = repeated.reshape(rows, height, cols, width).mean(axis=(1, 3))
    np.testing.assert_allclose(means, truth, atol=1e-12)


def test_objects_cut_at_seams_are_noticed_and_whole_ones_are_not():
    rng = np.random.default_rng(3)
    mask = np.zeros((1024, 1024), bool)
    for row, col in rng.integers(10, 1010, (900, 2)):
        mask[row - 4 : row + 5, col - 4 : col + 5] = True
    whole = ndimage.label(mask)[0].astype(np.uint32)
    cut = np.zeros_like(whole)
    for top in (0, 512):
        for left in (0, 512):
            block = np.s_[top : top + 512, left : left + 512]
            part = ndimage.label(mask[block])[0]
            cut[block] = np.where(part > 0, part + cut.max(), 0)
    assert cut.max() > whole.max()
    for labels, expected in ((whole, False), (cut, True)):
        found = instance_statistics(
            table_of(labels), 1024, 1024, np.ones((64, 64), bool), seam_rows=[512], seam_cols=[512]
        )
        assert found.seams.suspicious is expected
        assert found.seams.n_seams == 2


def test_one_unit_has_no_seam_check():
    assert (
        instance_statistics(table_of(discs()), HEIGHT, WIDTH, np.ones((6, 9), bool), seam_rows=[0]).seams
        is None
    )
