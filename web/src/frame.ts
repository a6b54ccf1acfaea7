/** Frames and units: image px to the map library's y-up plane, metres and micrometres, and words for them. */
import type { Box, Geometry, SourceInfo, XY } from "./types.ts";

/** Image px to the plane of the map library, whose y points up; the same again goes back. */
export function flip([x, y]: readonly number[]): XY {
  return [x ?? 0, y === 0 ? 0 : -(y ?? 0)];
}

export function flipBox([x0, y0, x1, y1]: readonly number[]): Box {
  return [x0 ?? 0, -(y1 ?? 0), x1 ?? 0, -(y0 ?? 0)];
}

/** A geometry in the other frame: all y with the other sign. */
export function flipGeometry<G extends Geometry>(geometry: G): G {
  const turn = (value: unknown): unknown =>
    Array.isArray(value) && typeof value[0] === "number" ? flip(value as number[]) : (value as unknown[]).map(turn);
  return { type: geometry.type, coordinates: turn(geometry.coordinates) } as G;
}

/** Resolutions of a pyramid, coarsest first: image px per tile px. */
export function resolutions(maxZoom: number): number[] {
  return Array.from({ length: maxZoom + 1 }, (_, z) => 2 ** (maxZoom - z));
}

/** Image px to the file's own coordinates. */
export function toFile([a, b, c, d, e, f]: SourceInfo["transform"], [x, y]: XY): XY {
  return [a * x + b * y + c, d * x + e * y + f];
}

const METRES_PER_DEGREE = 111_195; // mean of the sphere of 6,371,008 m

/** Metres on the ground per image px along x at a place, or null where the file does not state a scale. */
export function metresPerPixel(source: SourceInfo, at: XY): number | null {
  if (source.kind === "slide") return source.mpp === null ? null : source.mpp * 1e-6;
  const [a, , , d] = source.transform;
  const step = Math.hypot(a, d);
  if (source.unit === "m") return step;
  if (source.unit === "degree") {
    const latitude = toFile(source.transform, at)[1];
    return step * METRES_PER_DEGREE * Math.max(Math.cos((latitude * Math.PI) / 180), 0.01);
  }
  return null;
}

/** A round length of at most `limit`: 1, 2 or 5 times a power of ten. */
export function roundLength(limit: number): number {
  const power = 10 ** Math.floor(Math.log10(limit));
  const digit = limit / power;
  return (digit >= 5 ? 5 : digit >= 2 ? 2 : 1) * power;
}

/** A length in metres with the unit in which it is short to read. */
export function lengthText(metres: number): string {
  const units: [number, string][] = [
    [1e-6, "µm"],
    [1e-3, "mm"],
    [1, "m"],
    [1e3, "km"],
  ];
  let [size, name] = units[0]!;
  for (const [at, word] of units) {
    if (metres >= at * 0.9999 && !(word === "mm" && metres >= 0.9999)) [size, name] = [at, word];
  }
  return `${Number((metres / size).toPrecision(3))} ${name}`;
}

/** An area of so many working px in words, with three digits in µm² where the side of a pixel is known. */
export function areaText(pixels: number, source: SourceInfo): string {
  if (source.mpp === null) return `${Math.round(pixels).toLocaleString("en")} px`;
  const area = pixels * (source.mpp * source.work_scale) ** 2;
  return `${Number(area.toPrecision(3)).toLocaleString("en")} µm²`;
}

export interface ScaleBar {
  width: number;
  text: string;
}

/** The scale bar for `resolution` image px per screen px, at most `widest` screen px wide. */
export function scaleBar(metres: number | null, resolution: number, widest: number): ScaleBar {
  if (metres === null) {
    const length = roundLength(widest * resolution);
    return { width: length / resolution, text: `${length.toLocaleString("en")} px` };
  }
  const length = roundLength(widest * resolution * metres);
  return { width: length / (resolution * metres), text: lengthText(length) };
}

const grouped = (value: number, digits: number): string =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Where the pointer is, as people of the field write it. */
export function placeText(source: SourceInfo, at: XY): string {
  if (source.kind === "slide") {
    const pixels = `x ${grouped(Math.floor(at[0]), 0)}  y ${grouped(Math.floor(at[1]), 0)} px`;
    return source.mpp === null
      ? pixels
      : `${pixels}   ${lengthText(at[0] * source.mpp * 1e-6)}, ${lengthText(at[1] * source.mpp * 1e-6)}`;
  }
  const [x, y] = toFile(source.transform, at);
  if (source.unit === "degree") return lonLatText(x, y);
  if (source.unit === "m") return `E ${grouped(x, 0)}  N ${grouped(y, 0)} m`;
  return `x ${grouped(x, 1)}  y ${grouped(y, 1)}`;
}

export function lonLatText(lon: number, lat: number): string {
  return `${Math.abs(lat).toFixed(5)}° ${lat < 0 ? "S" : "N"}  ${Math.abs(lon).toFixed(5)}° ${lon < 0 ? "W" : "E"}`;
}

/** Magnification or scale in words: screen px per image px. */
export function zoomText(resolution: number): string {
  const percent = 100 / resolution;
  return `${percent >= 10 ? Math.round(percent) : Number(percent.toPrecision(2))} %`;
}

/** The box, moved and if need be cut so that it lies inside the image. */
export function insideImage([x0, y0, x1, y1]: Box, width: number, height: number): Box {
  const w = Math.min(x1 - x0, width);
  const h = Math.min(y1 - y0, height);
  const x = Math.min(Math.max(x0, 0), width - w);
  const y = Math.min(Math.max(y0, 0), height - h);
  return [x, y, x + w, y + h];
}

/** What of the box lies inside the image, or null. */
export function clipBox([x0, y0, x1, y1]: Box, width: number, height: number): Box | null {
  const box: Box = [Math.max(x0, 0), Math.max(y0, 0), Math.min(x1, width), Math.min(y1, height)];
  return box[2] > box[0] && box[3] > box[1] ? box : null;
}

export function boxPolygon([x0, y0, x1, y1]: Box): Geometry {
  return {
    type: "Polygon",
    coordinates: [
      [
        [x0, y0],
        [x1, y0],
        [x1, y1],
        [x0, y1],
        [x0, y0],
      ],
    ],
  };
}

/** Polygons, each a list of rings, of what lies outside an area of an image: around its parts, and in their holes. */
export function outside(area: Geometry, width: number, height: number): XY[][][] {
  const parts = area.type === "Polygon" ? [area.coordinates] : area.type === "MultiPolygon" ? area.coordinates : [];
  const around = boxPolygon([0, 0, width, height]).coordinates as XY[][];
  const holes = parts.flatMap((rings) => rings.slice(1)).map((ring) => ({ polygon: [ring], size: ringArea(ring) }));
  holes.sort((one, other) => one.size - other.size);
  for (const rings of parts) {
    // a part may lie in a hole of another one; where several holes hold it, in the smallest
    const at = innerPoint({ type: "Polygon", coordinates: rings });
    const hole = holes.find(({ polygon }) => contains({ type: "Polygon", coordinates: [polygon[0]!] }, at));
    (hole?.polygon ?? around).push(rings[0]!);
  }
  return [around, ...holes.map(({ polygon }) => polygon)];
}

export function boundsOf(geometry: Geometry): Box {
  const box: Box = [Infinity, Infinity, -Infinity, -Infinity];
  const visit = (value: unknown): void => {
    const list = value as unknown[];
    if (typeof list[0] === "number") {
      const [x, y] = list as XY;
      box[0] = Math.min(box[0], x);
      box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x);
      box[3] = Math.max(box[3], y);
    } else list.forEach(visit);
  };
  visit(geometry.coordinates);
  return box;
}

/** A freehand line without the points that lie within `tolerance` of the line through their neighbours (Douglas-Peucker). */
export function simplify(line: readonly XY[], tolerance: number): XY[] {
  if (line.length < 3) return [...line];
  const keep = new Uint8Array(line.length);
  keep[0] = keep[line.length - 1] = 1;
  const open: [number, number][] = [[0, line.length - 1]];
  while (open.length) {
    const [first, last] = open.pop()!;
    const [ax, ay] = line[first]!;
    const [bx, by] = line[last]!;
    const length = Math.hypot(bx - ax, by - ay);
    let far = tolerance;
    let index = -1;
    for (let i = first + 1; i < last; i++) {
      const [x, y] = line[i]!;
      const distance =
        length === 0 ? Math.hypot(x - ax, y - ay) : Math.abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / length;
      if (distance > far) [far, index] = [distance, i];
    }
    if (index > 0) {
      keep[index] = 1;
      open.push([first, index], [index, last]);
    }
  }
  return line.filter((_, i) => keep[i]);
}

/** Area enclosed by a ring, px2. */
export function ringArea(ring: readonly XY[]): number {
  let sum = 0;
  for (let i = 0; i < ring.length; i++) {
    const [x0, y0] = ring[i]!;
    const [x1, y1] = ring[(i + 1) % ring.length]!;
    sum += x0 * y1 - x1 * y0;
  }
  return Math.abs(sum) / 2;
}

/** Whether a polygon with holes, or any part of several, holds the point. */
export function contains(geometry: Geometry, [x, y]: XY): boolean {
  const inRing = (ring: XY[]): boolean => {
    let inside = false;
    for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
      const [xi, yi] = ring[i]!;
      const [xj, yj] = ring[j]!;
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
    }
    return inside;
  };
  const inPolygon = (rings: XY[][]): boolean => rings.length > 0 && inRing(rings[0]!) && !rings.slice(1).some(inRing);
  if (geometry.type === "Polygon") return inPolygon(geometry.coordinates);
  if (geometry.type === "MultiPolygon") return geometry.coordinates.some(inPolygon);
  return false;
}

/** How far a place is from the nearest edge of a polygon, its holes too, or of any of several. */
export function toEdge(geometry: Geometry, [x, y]: XY): number {
  const parts =
    geometry.type === "Polygon" ? [geometry.coordinates] : geometry.type === "MultiPolygon" ? geometry.coordinates : [];
  let least = Infinity;
  for (const ring of parts.flat()) {
    ring.slice(1).forEach(([bx, by], i) => {
      const [ax, ay] = ring[i]!;
      const length = (bx - ax) ** 2 + (by - ay) ** 2 || 1;
      const t = Math.min(1, Math.max(0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length));
      least = Math.min(least, Math.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)));
    });
  }
  return least;
}

/** A place inside a polygon: its centroid where that lies inside, a corner otherwise. */
export function innerPoint(geometry: Geometry): XY {
  const ring =
    geometry.type === "Polygon"
      ? geometry.coordinates[0]!
      : geometry.type === "MultiPolygon"
        ? geometry.coordinates[0]![0]!
        : null;
  if (!ring) return geometry.type === "Point" ? geometry.coordinates : (geometry.coordinates[0] as XY);
  const middle: XY = [
    ring.reduce((sum, [x]) => sum + x, 0) / ring.length,
    ring.reduce((sum, [, y]) => sum + y, 0) / ring.length,
  ];
  if (contains(geometry, middle)) return middle;
  for (let i = 2; i < ring.length; i++) {
    const [a, b, c] = [ring[i - 2]!, ring[i - 1]!, ring[i]!];
    const inside: XY = [(a[0] + b[0] + c[0]) / 3, (a[1] + b[1] + c[1]) / 3];
    if (contains(geometry, inside)) return inside;
  }
  return ring[0]!;
}
