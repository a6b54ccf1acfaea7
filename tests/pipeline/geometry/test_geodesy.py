"""Areas and lengths against closed forms, in a UTM zone, in feet, on the ellipsoid, and in Web Mercator."""

import math
import pickle

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.windows import Window

from fewscope.errors import SourceError
from fewscope.pipeline.geometry.geodesy import GroundMeasure

A, F = 6_378_137.0, 1 / 298.257223563  # WGS 84
E2 = F * (2 - F)
DEGREES = Affine(0.001, 0, 10, 0, -0.001, 60)
FOOT = 1200 / 3937  # US survey foot, m


def zone_area(south: float, north: float, degrees: float) -> float:
    """Area of an ellipsoid's patch between two parallels, m2 (Snyder, Map Projections, equation 3-12)."""
    e = math.sqrt(E2)

    def q(latitude: float) -> float:
        s = math.sin(math.radians(latitude))
        return (1 - E2) * (s / (1 - E2 * s * s) + math.atanh(e * s) / e)

    return A * A * math.radians(degrees) / 2 * (q(north) - q(south))


def ground(crs: str | None, transform: Affine = DEGREES) -> GroundMeasure:
    return GroundMeasure.of(crs, transform, 100, 100)


def test_a_circle_in_utm_and_in_feet_is_pi_r_squared():
    circle = np.array([shapely.Point(500_000, 4_000_000).buffer(1000, quad_segs=2000)])
    utm = Affine(10, 0, 499_500, 0, -10, 4_000_500)
    feet = Affine(30, 0, 980_000, 0, -30, 200_000)
    assert ground("EPSG:32618", utm).area_m2(circle)[0] == pytest.approx(math.pi * 1000**2, rel=1e-6)
    new_york = ground("EPSG:2263", feet)
    assert new_york.method == "plane"
    assert new_york.area_m2(circle)[0] == pytest.approx(math.pi * (1000 * FOOT) ** 2, rel=1e-6)
    assert new_york.length_m(circle)[0] == pytest.approx(2 * math.pi * 1000 * FOOT, rel=1e-6)


@pytest.mark.parametrize(
    ("south", "north", "west", "east"), [(59, 60, 10, 14), (-89, -88, 0, 30), (0, 1, 179, 182)]
)
def test_a_patch_of_the_ellipsoid_has_the_area_of_the_closed_form(south, north, west, east):
    """Also near the pole, and across the date line with longitudes above 180."""
    patch = np.array([shapely.box(west, south, east, north)])
    found = ground("EPSG:4326").area_m2(patch)[0]
    assert found == pytest.approx(zone_area(south, north, east - west), rel=1e-9)


def test_the_equators_quarter_and_the_meridians_length_are_known():
    """A degree of longitude on the equator, and the meridian from there to the pole: 10,001,965.729 m."""
    lines = np.array([shapely.LineString([(0, 0), (1, 0)]), shapely.LineString([(5, 0), (5, 45), (5, 90)])])
    along = ground("EPSG:4326").length_m(lines)
    assert along[0] == pytest.approx(A * math.pi / 180, rel=1e-9)
    assert along[1] == pytest.approx(10_001_965.729, abs=0.001)


def test_perimeters_count_holes_and_parts():
    outer, hole = shapely.box(500_000, 0, 500_040, 40), shapely.box(500_010, 10, 500_020, 20)
    both = shapely.MultiPolygon([outer - hole, shapely.box(500_100, 0, 500_101, 1)])
    plane = ground("EPSG:32618", Affine(1, 0, 500_000, 0, -1, 100))
    degrees = GroundMeasure("EPSG:4326", "ellipsoid")
    assert plane.length_m(np.array([both]))[0] == 160 + 40 + 4
    small = shapely.transform(both, lambda xy: (xy - (500_000, 0)) / 1e5)  # some 40 m at the equator
    rings = [polygon.exterior for polygon in small.geoms] + list(small.geoms[0].interiors)
    one_by_one = degrees.length_m(np.array(rings)).sum()
    assert degrees.length_m(np.array([small]))[0] == pytest.approx(one_by_one, rel=1e-12)


def test_web_mercator_is_measured_on_the_ellipsoid():
    """At 60 degrees north its plane shows areas four times too large."""
    x, y = 1_113_194.9079327357, 8_399_737.889818357  # 10 E, 60 N
    mercator = ground("EPSG:3857", Affine(10, 0, x, 0, -10, y))
    assert mercator.method == "ellipsoid"
    patch = np.array([shapely.box(x, y, x + 1000, y + 1000)])
    south, north = 60.0, math.degrees(2 * math.atan(math.exp((y + 1000) / A)) - math.pi / 2)
    expected = zone_area(south, north, math.degrees(1000 / A))
    assert mercator.area_m2(patch)[0] == pytest.approx(expected, rel=1e-6)
    assert mercator.area_m2(patch)[0] < 0.26e6


def test_rows_of_pixels_add_up_to_the_raster():
    transform = Affine(0.01, 0, 10, 0, -0.01, 60)
    rows = ground("EPSG:4326", transform).pixel_areas_m2(transform, Window(0, 0, 50, 100))
    assert rows.shape == (100, 1)
    assert rows.sum() * 50 == pytest.approx(zone_area(59, 60, 0.5), rel=1e-9)
    assert rows[0] < rows[-1]  # the north is narrower


POLAR = Affine(5000, 0, -500_000, 0, -5000, 500_000)
"""200 x 200 px of 5 km with the North Pole in the middle (EPSG:3413)."""


def geodesic_area(polygon: shapely.Polygon, crs: str) -> float:
    """Area of a polygon with straight edges in a projection, m2: geodesics between points 100 m apart."""
    ring = shapely.get_coordinates(shapely.segmentize(polygon, 100))
    degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*ring.T)
    return abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(*degrees)[0])


@pytest.mark.parametrize(
    "box",
    [
        (-300_000, -200_000, 250_000, 350_000),
        (-400_000, 380_000, -250_000, 450_000),
        (1e5, 1e5, 105_000, 105_000),
    ],
    ids=["around the pole", "across the date line", "a pixel"],
)
def test_at_the_pole_areas_are_those_of_the_ellipsoid(box):
    """The plane of EPSG:3413 shows them 6 % too small there; the date line runs through the second box."""
    polar = GroundMeasure.of("EPSG:3413", POLAR, 200, 200)
    assert polar.method == "ellipsoid"
    patch = shapely.box(*box)
    expected = geodesic_area(patch, "EPSG:3413")
    assert polar.area_m2(np.array([patch]))[0] == pytest.approx(expected, rel=1e-5)
    assert expected / patch.area == pytest.approx(1.06, abs=0.01)


def test_pixels_around_the_pole_add_up_to_the_raster():
    polar = GroundMeasure.of("EPSG:3413", POLAR, 200, 200)
    areas = polar.pixel_areas_m2(POLAR, Window(0, 0, 200, 200))
    assert areas.shape == (200, 200)
    corner = polar.pixel_areas_m2(POLAR, Window(150, 160, 50, 40))  # windows of the same pixels agree
    assert np.abs(corner / areas[160:, 150:] - 1).max() < 1e-4
    assert areas.sum() == pytest.approx(
        geodesic_area(shapely.box(-5e5, -5e5, 5e5, 5e5), "EPSG:3413"), rel=1e-4
    )


def test_a_pixel_at_60_degrees_is_half_as_wide_as_high():
    height, width = ground("EPSG:4326").pixel_m(Affine(0.001, 0, 10, 0, -0.001, 60), 0, 0)
    assert width / height == pytest.approx(0.5, abs=0.002)
    rotated = Affine.translation(500_000, 0) @ Affine.rotation(30) @ Affine.scale(3, -5)
    assert ground("EPSG:32618", rotated).pixel_m(rotated, 7, 8) == pytest.approx((5, 3))


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_distances_in_the_flat_plane_are_those_on_the_ellipsoid(crs):
    """100 km at 60 degrees north, to 0.1 %; across the date line too."""
    centre, transform = (
        ((179.9, 60.0), DEGREES) if crs == "EPSG:4326" else ((1e6, 8.4e6), Affine(10, 0, 1e6, 0, -10, 8.4e6))
    )
    measured = ground(crs, transform)
    assert measured.method == "ellipsoid"
    step = (1.0, 0.4) if crs == "EPSG:4326" else (1e5, 5e4)
    there = np.array([centre, np.add(centre, step)])
    flat = measured.local_plane_m(there, centre)
    assert flat[0].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert np.hypot(*(flat[1] - flat[0])) == pytest.approx(measured.steps_m(there)[0], rel=1e-3)


def test_the_flat_plane_of_a_projection_is_its_own():
    feet = ground("EPSG:2263", Affine(30, 0, 980_000, 0, -30, 200_000))
    assert feet.local_plane_m(np.array([[980_100.0, 200_000.0]]), (980_000, 200_000)).tolist() == [
        [pytest.approx(100 * FOOT), 0]
    ]


def test_north_is_where_the_meridian_goes():
    """Up in degrees; left of up east of a UTM zone's middle; down where rows run northward; nowhere without a CRS."""
    assert ground("EPSG:4326").north(DEGREES, 50, 50) == pytest.approx((-1, 0))
    upside_down = Affine(0.001, 0, 10, 0, 0.001, 60)
    assert ground("EPSG:4326", upside_down).north(upside_down, 5, 5) == pytest.approx((1, 0))
    utm = Affine(10, 0, 700_000, 0, -10, 6_600_000)
    down, right = ground("EPSG:32632", utm).north(utm, 0, 0)
    convergence = pyproj.Proj("EPSG:32632").get_factors(
        *pyproj.Proj("EPSG:32632")(700_000, 6_600_000, inverse=True)
    )
    assert math.degrees(math.atan2(right, -down)) == pytest.approx(
        -convergence.meridian_convergence, abs=0.01
    )
    assert convergence.meridian_convergence > 2
    assert ground(None).north(DEGREES, 0, 0) is None


def test_without_a_crs_nothing_is_known_in_metres():
    nowhere = ground(None)
    assert nowhere.method == "pixels"
    assert np.isnan(nowhere.area_m2(np.array([shapely.box(0, 0, 1, 1)]))).all()
    assert np.isnan(nowhere.length_m(np.array([shapely.box(0, 0, 1, 1)]))).all()
    assert np.isnan(nowhere.steps_m(np.zeros((3, 2)))).tolist() == [True, True]


def test_an_unknown_crs_is_refused_and_a_known_one_travels():
    with pytest.raises(SourceError, match="not recognised by PROJ"):
        ground("no such thing")
    travelled = pickle.loads(pickle.dumps(ground("EPSG:4326")))
    assert travelled == ground("EPSG:4326")
