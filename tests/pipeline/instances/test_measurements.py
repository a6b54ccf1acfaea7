"""The table is scikit-image's on the whole image, to the last bit the same for every cut into units."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from skimage.measure import regionprops_table

from fewscope.connectors.source import MeasuredChannel
from fewscope.pipeline.instances import measurements
from fewscope.pipeline.instances.labelling import Borders, label_core, merge_labels, seam_pairs
from fewscope.pipeline.instances.measurements import (
    UNIT_SCHEMA,
    final_tables,
    instance_schema,
    measure_unit,
    unit_schema,
)
from fewscope.pipeline.tiling.grid import Unit, plan_units

TRANSFORM = Affine(2.0, 0.0, 100.0, 0.0, 2.0, 50.0)


MEASURED = (MeasuredChannel("DAPI"), MeasuredChannel("CD3", low=-100.0, step=0.5))


def channels_of(probability: np.ndarray) -> np.ndarray:
    """Two measured channels (h, w, 2) uint16 that differ from each other."""
    wide = probability.astype(np.uint16)
    return np.stack([wide * 257, 60_000 - 3 * wide], axis=-1)


def pieces(mask: np.ndarray, probability: np.ndarray, side: int, min_area: int = 0) -> Iterator[pa.Table]:
    """The table of a mask that is worked through in units, piece by piece."""
    units = plan_units(*mask.shape, side)
    tables: dict[int, pa.Table] = {}
    borders: list[Borders | None] = []
    for unit in units:
        here = unit.core.toslices()
        labels, n = label_core(mask[here])
        borders.append(Borders.of(labels) if n else None)
        if n:
            tables[unit.index] = measure_unit(
                labels,
                probability[here],
                unit.core,
                mask.shape,
                channels=list(np.moveaxis(channels_of(probability)[here], -1, 0)),
            )
    none = unit_schema(len(MEASURED)).empty_table()
    of_units = [tables.get(unit.index, none) for unit in units]
    n_labels = [len(table) for table in of_units]
    merge = merge_labels(
        n_labels,
        seam_pairs(units, borders, n_labels),
        [table["first"].to_numpy() for table in of_units],
        [table["area"].to_numpy() for table in of_units],
        min_area,
    )

    def load(unit: Unit) -> pa.Table | None:
        return tables.get(unit.index)

    return final_tables(units, load, merge, TRANSFORM, um_per_px=0.5, measured=MEASURED)


def table_of(mask: np.ndarray, probability: np.ndarray, side: int, min_area: int = 0) -> pa.Table:
    empty = instance_schema(measured=MEASURED).empty_table()
    return pa.concat_tables([empty, *pieces(mask, probability, side, min_area)])


def random_image(
    seed: int, density: float, shape: tuple[int, int] = (50, 70)
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(shape) < density, rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.slow
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.05, 0.3, 0.41, 0.59, 1.0]),
    st.sampled_from([8, 16, 24]),
    st.sampled_from([0, 3]),
    st.booleans(),
)
@settings(max_examples=40)
def test_any_units_give_the_same_bytes(
    seed: int, density: float, side: int, min_area: int, large: bool
) -> None:
    mask, probability = random_image(seed, density)
    with pytest.MonkeyPatch.context() as patch:
        if large:  # as if objects were too large for int64: the same bytes in this way too
            patch.setattr(measurements, "_fits_int64", lambda columns: columns["area"] < 5)
        in_units = table_of(mask, probability, side, min_area)
    assert in_units.equals(table_of(mask, probability, 80, min_area))
    assert in_units["id"].to_pylist() == list(range(1, len(in_units) + 1))


@pytest.mark.parametrize("density", [0.1, 0.35, 0.5, 0.7])
def test_values_are_those_of_regionprops(density: float) -> None:
    mask, probability = random_image(7, density)
    labels, _ = label_core(mask)
    names = (
        "label",
        "area",
        "centroid",
        "bbox",
        "eccentricity",
        "equivalent_diameter_area",
        "intensity_mean",
    )
    truth = regionprops_table(labels.astype(int), probability, properties=names)
    table = table_of(mask, probability, 16)

    def column(name: str) -> np.ndarray:
        return table[name].to_numpy()

    np.testing.assert_array_equal(column("id"), truth["label"])
    np.testing.assert_array_equal(column("area_px"), truth["area"])
    np.testing.assert_allclose(column("area_um2"), truth["area"] * 0.25, rtol=1e-12)
    np.testing.assert_allclose(column("centroid_row"), truth["centroid-0"], rtol=1e-12)
    np.testing.assert_allclose(column("centroid_col"), truth["centroid-1"], rtol=1e-12)
    np.testing.assert_allclose(column("x"), 100 + 2 * (truth["centroid-1"] + 0.5), rtol=1e-12)
    np.testing.assert_allclose(column("y"), 50 + 2 * (truth["centroid-0"] + 0.5), rtol=1e-12)
    for i, side in enumerate(("row0", "col0", "row1", "col1")):
        np.testing.assert_array_equal(column(f"bbox_{side}"), truth[f"bbox-{i}"])
    # atol: scikit-image takes 1 - ratio of eigenvalues, which loses half the digits near a circle
    np.testing.assert_allclose(column("eccentricity"), truth["eccentricity"], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(
        column("equivalent_diameter_um"), truth["equivalent_diameter_area"] * 0.5, rtol=1e-12
    )
    np.testing.assert_allclose(column("mean_probability"), truth["intensity_mean"] / 255, rtol=1e-12)
    for i, (name, low, step) in enumerate([("DAPI", 0, 1), ("CD3", -100, 0.5)]):
        means = regionprops_table(
            labels.astype(int), channels_of(probability)[..., i], properties=("intensity_mean",)
        )["intensity_mean"]
        np.testing.assert_allclose(column(f"intensity_{name}"), low + step * means, rtol=1e-12)
    at_edge = (
        (truth["bbox-0"] == 0) | (truth["bbox-1"] == 0) | (truth["bbox-2"] == 50) | (truth["bbox-3"] == 70)
    )
    np.testing.assert_array_equal(column("touches_edge"), at_edge)


def test_a_drawn_unit_by_hand() -> None:
    labels = np.array([[0, 1, 1], [2, 0, 1]], np.uint32)
    probability = np.array([[9, 10, 20], [40, 9, 30]], np.uint8)
    table = measure_unit(labels, probability, Window(100, 10, 3, 2), (12, 200))
    assert table.schema == UNIT_SCHEMA
    one, two = table.to_pylist()
    assert one == {
        "label": 1,
        "class": 1,
        "first": 10 * 200 + 101,
        "area": 3,
        "row0": 10,
        "col0": 101,
        "row1": 12,
        "col1": 103,
        "sum_row": 1,
        "sum_col": 2,
        "sum_row_row": 1,
        "sum_row_col": 1,
        "sum_col_col": 2,
        "sum_probability": 60,
        "touches_edge": True,
    }
    assert (two["first"], two["row0"], two["col0"], two["sum_row"]) == (11 * 200 + 100, 11, 100, 0)


def test_an_object_larger_than_int64_can_square() -> None:
    """Two parts so far apart that sums of squares overflow: exact all the same."""
    mask = np.ones((40, 60), bool)
    probability = np.full((40, 60), 255, np.uint8)
    far = 2_000_000_000
    units = [Unit(0, 0, 0, Window(0, 0, 60, 40)), Unit(1, 0, 1, Window(far, 0, 60, 40))]
    shape = (40, far + 60)
    labels = mask.astype(np.uint32)
    tables = [measure_unit(labels, probability, unit.core, shape) for unit in units]
    merge = merge_labels(
        [1, 1], np.array([[0, 1]]), [t["first"].to_numpy() for t in tables], [[2400], [2400]]
    )
    (table,) = final_tables(units, lambda unit: tables[unit.index], merge, TRANSFORM, None)
    (row,) = table.to_pylist()
    assert row["area_px"] == 4800
    assert row["centroid_col"] == 29.5 + far / 2
    assert row["bbox_col1"] == far + 60
    assert row["area_um2"] is None
    rr, cc = (40**2 - 1) / 12, (60**2 - 1) / 12 + (far / 2) ** 2
    assert row["eccentricity"] == pytest.approx(np.sqrt(1 - rr / cc), rel=1e-12)


def test_tables_come_line_by_line_with_ascending_ids() -> None:
    mask, probability = random_image(3, 0.2)
    tables = list(pieces(mask, probability, 8))
    assert 2 <= len(tables) <= 7
    for number, table in enumerate(tables):
        assert table.schema == instance_schema(measured=MEASURED)
        assert len(table)
        rows = table["bbox_row0"].to_numpy()
        assert (rows // 8 == rows[0] // 8).all(), f"piece {number} mixes lines of units"
    ids = np.concatenate([table["id"].to_numpy() for table in tables])
    np.testing.assert_array_equal(ids, np.arange(1, len(ids) + 1))


def test_an_empty_source_has_no_tables() -> None:
    assert list(pieces(np.zeros((20, 20), bool), np.zeros((20, 20), np.uint8), 8)) == []


def test_arrays_of_another_size_than_the_core_are_refused() -> None:
    with pytest.raises(ValueError, match=r"probability \(2, 3\)"):
        measure_unit(np.zeros((2, 2), np.uint32), np.zeros((2, 3), np.uint8), Window(0, 0, 2, 2), (2, 2))
