import assert from "node:assert/strict";
import { test } from "node:test";
import {
  areaText,
  boundsOf,
  boxPolygon,
  clipBox,
  contains,
  flip,
  flipBox,
  flipGeometry,
  innerPoint,
  insideImage,
  lengthText,
  metresPerPixel,
  outside,
  placeText,
  resolutions,
  ringArea,
  roundLength,
  scaleBar,
  simplify,
  toEdge,
  toFile,
} from "../src/frame.ts";
import type { Geometry, Polygon, SourceInfo, XY } from "../src/types.ts";

const SLIDE: SourceInfo = {
  id: "0",
  name: "slide",
  kind: "slide",
  width: 4096,
  height: 2048,
  tile: 256,
  max_zoom: 4,
  key: "a",
  work_scale: 2,
  mpp: 0.25,
  unit: "um",
  transform: [1, 0, 0, 0, 1, 0],
  crs: null,
  crs_name: null,
  n_regions: 0,
  n_objects: 0,
  notes: [],
  state: "new",
};
const MAP: SourceInfo = {
  ...SLIDE,
  kind: "raster",
  mpp: null,
  unit: "m",
  transform: [30, 0, 500_000, 0, -30, 9_000_000],
  crs: "EPSG:32718",
};

test("turning a frame twice changes nothing, and no y is -0", () => {
  const square: Polygon = {
    type: "Polygon",
    coordinates: [
      [
        [0, 0],
        [4, 0],
        [4, 7],
        [0, 0],
      ],
    ],
  };
  assert.deepEqual(flipGeometry(flipGeometry(square)), square);
  assert.deepEqual(flipGeometry(square).coordinates[0]![2], [4, -7]);
  assert.ok(Object.is(flip([1, 0])[1], 0));
  assert.deepEqual(flipBox(flipBox([1, 2, 3, 4])), [1, 2, 3, 4]);
});

test("the finest zoom has a resolution of 1 and each below doubles it", () => {
  assert.deepEqual(resolutions(3), [8, 4, 2, 1]);
  assert.deepEqual(resolutions(0), [1]);
});

test("the scale bar is a round length, at most as wide as allowed", () => {
  for (const resolution of [0.03, 0.7, 1, 3.3, 17, 400]) {
    for (const metres of [2.5e-7, 10, null]) {
      const { width, text } = scaleBar(metres, resolution, 130);
      assert.ok(width <= 130 + 1e-9 && width >= 130 / 2.51, `${width} at ${resolution}`);
      assert.match(text, /^[125]0*(\.0+)? |^0\.0*[125] |^[125](0{0,2})(,000)* /);
    }
  }
  const { width, text } = scaleBar(2.5e-7, 1, 130);
  assert.deepEqual([Math.round(width), text], [80, "20 µm"]);
  assert.equal(roundLength(130), 100);
  assert.equal(roundLength(5), 5);
  assert.equal(roundLength(0.049), 0.02);
});

test("lengths get the unit in which they are short", () => {
  assert.deepEqual([2e-5, 1e-3, 0.5, 5, 999, 1000, 25_000].map(lengthText), [
    "20 µm",
    "1 mm",
    "500 mm",
    "5 m",
    "999 m",
    "1 km",
    "25 km",
  ]);
});

test("a pixel's size on the ground: micrometres, metres, and degrees that shrink with the cosine of latitude", () => {
  assert.equal(metresPerPixel(SLIDE, [0, 0]), 2.5e-7);
  assert.equal(metresPerPixel({ ...SLIDE, mpp: null }, [0, 0]), null);
  assert.equal(metresPerPixel(MAP, [0, 0]), 30);
  const degrees: SourceInfo = { ...MAP, unit: "degree", transform: [0.001, 0, 10, 0, -0.001, 60] };
  assert.ok(Math.abs(metresPerPixel(degrees, [0, 0])! / 111.195 - 0.5) < 1e-6);
});

test("places are written in the file's own coordinates", () => {
  assert.deepEqual(toFile(MAP.transform, [2, 3]), [500_060, 8_999_910]);
  assert.equal(placeText(MAP, [2, 3]), "E 500,060  N 8,999,910 m");
  assert.match(placeText(SLIDE, [100.7, 8]), /^x 100 {2}y 8 px/);
  assert.equal(
    placeText({ ...MAP, unit: "degree", transform: [1, 0, -75, 0, -1, -8] }, [0, 0]),
    "8.00000° S  75.00000° W",
  );
});

test("a window stays whole and moves into the image; a dragged box is cut", () => {
  assert.deepEqual(insideImage([-50, 1900, 174, 2124], 4096, 2048), [0, 1824, 224, 2048]);
  assert.deepEqual(insideImage([0, 0, 900, 900], 500, 600), [0, 0, 500, 600]);
  assert.deepEqual(clipBox([-5, -5, 10, 10], 100, 100), [0, 0, 10, 10]);
  assert.equal(clipBox([200, 0, 210, 10], 100, 100), null);
});

test("simplifying keeps ends and corners and drops what lies on the line", () => {
  const corner: XY[] = [
    [0, 0],
    [1, 0.01],
    [2, 0],
    [3, -0.01],
    [4, 0],
    [4, 1],
    [4, 2],
  ];
  assert.deepEqual(simplify(corner, 0.1), [
    [0, 0],
    [4, 0],
    [4, 2],
  ]);
  const circle: XY[] = Array.from({ length: 200 }, (_, i) => [50 * Math.cos(i / 31.8), 50 * Math.sin(i / 31.8)]);
  const few = simplify(circle, 0.5);
  assert.ok(few.length < 60 && Math.abs(ringArea(few) / (Math.PI * 2500) - 1) < 0.02);
});

test("a hole is outside, and both parts of several are inside", () => {
  const ring: Polygon = {
    type: "Polygon",
    coordinates: [
      [
        [0, 0],
        [9, 0],
        [9, 9],
        [0, 9],
        [0, 0],
      ],
      [
        [3, 3],
        [6, 3],
        [6, 6],
        [3, 6],
        [3, 3],
      ],
    ],
  };
  assert.equal(contains(ring, [1, 1]), true);
  assert.equal(contains(ring, [4, 4]), false);
  assert.equal(
    contains(
      {
        type: "MultiPolygon",
        coordinates: [
          ring.coordinates,
          [
            [
              [20, 0],
              [22, 0],
              [21, 3],
              [20, 0],
            ],
          ],
        ],
      },
      [21, 1],
    ),
    true,
  );
  assert.deepEqual(boundsOf(ring), [0, 0, 9, 9]);
});

test("a place inside an outline is inside, also of a crescent", () => {
  const crescent: Polygon = {
    type: "Polygon",
    coordinates: [
      [
        [0, 0],
        [10, 0],
        [10, 10],
        [0, 10],
        [0, 9],
        [9, 9],
        [9, 1],
        [0, 1],
        [0, 0],
      ],
    ],
  };
  assert.equal(contains(crescent, [4, 5]), false);
  assert.equal(contains(crescent, innerPoint(crescent)), true);
});

const ring = (a: number, b: number): XY[] => [
  [a, a],
  [b, a],
  [b, b],
  [a, a],
];

test("what is outside an area is around its parts and in their holes", () => {
  const parts = outside({ type: "MultiPolygon", coordinates: [[ring(10, 50), ring(20, 30)], [ring(60, 70)]] }, 100, 80);
  assert.deepEqual(parts.slice(1), [[ring(20, 30)]]);
  assert.equal(parts[0]!.length, 3);
  assert.deepEqual(boundsOf({ type: "Polygon", coordinates: parts[0]! }), [0, 0, 100, 80]);
});

test("a part of an area that lies in a hole of another part is not outside", () => {
  const square = (a: number, b: number): XY[] => boxPolygon([a, a, b, b]).coordinates[0] as XY[];
  const island = [square(30, 60), square(35, 55)];
  const area: Geometry = {
    type: "MultiPolygon",
    coordinates: [[square(10, 80), square(20, 70)], island, [square(40, 50)]],
  };
  const parts = outside(area, 100, 100);
  const dimmed = (at: XY): number =>
    parts.filter((coordinates) => contains({ type: "Polygon", coordinates }, at)).length;
  for (let x = 1; x < 100; x += 2) assert.equal(dimmed([x, 45.5]), contains(area, [x, 45.5]) ? 0 : 1, `at ${x}`);
});

test("holes have an edge, too", () => {
  const holed: Geometry = { type: "Polygon", coordinates: [ring(0, 100), ring(40, 80)] };
  assert.equal(toEdge(holed, [60, 42]), 2);
  assert.equal(toEdge(holed, [50, 3]), 3);
  assert.equal(toEdge({ type: "MultiPolygon", coordinates: [[ring(0, 10)], holed.coordinates] }, [70, 43]), 3);
  assert.equal(toEdge({ type: "Point", coordinates: [1, 1] }, [1, 1]), Infinity);
});

test("the area of an object is that of its working pixels", () => {
  const source = { mpp: 0.25, work_scale: 2 } as SourceInfo;
  assert.equal(areaText(400, source), "100 µm²");
  assert.equal(areaText(400, { ...source, work_scale: 8 }), "1,600 µm²");
  assert.equal(areaText(5, { ...source, work_scale: 1 }), "0.313 µm²");
  assert.equal(areaText(1234, { ...source, mpp: null }), "1,234 px");
});
