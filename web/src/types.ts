/** What the server sends and takes. Coordinates are image px: x right, y down. */

export type XY = [number, number];
export type Box = [number, number, number, number];

export interface Polygon {
  type: "Polygon";
  coordinates: XY[][];
}
export interface MultiPolygon {
  type: "MultiPolygon";
  coordinates: XY[][][];
}
export interface Point {
  type: "Point";
  coordinates: XY;
}
export interface LineString {
  type: "LineString";
  coordinates: XY[];
}
export type Geometry = Polygon | MultiPolygon | Point | LineString;

export type Kind = "region" | "object" | "ignore" | "not" | "point" | "area";

export interface Properties {
  kind: Kind;
  class: string | null;
  negative?: boolean;
  source?: "drawn" | "brush" | "accepted" | "rejected" | "wand" | "preview";
  area_px?: number;
  probability?: number;
  /** Only in the page: half the width of a stroke that the server has not answered yet, image px. */
  radius?: number;
  /** Only in the page: an eraser's stroke that the server has not answered yet. */
  erase?: boolean;
}

export interface Feature {
  type: "Feature";
  id: string;
  geometry: Geometry;
  properties: Properties;
}

export interface ClassInfo {
  name: string;
  colour: string;
}

export interface SourceInfo {
  id: string;
  name: string;
  kind: "slide" | "raster";
  width: number;
  height: number;
  tile: number;
  max_zoom: number;
  /** Tells apart what tiles at the same place show. */
  key: string;
  work_scale: number;
  mpp: number | null;
  unit: "um" | "m" | "degree" | null;
  transform: [number, number, number, number, number, number];
  crs: string | null;
  crs_name: string | null;
  n_regions: number;
  n_objects: number;
  state: string;
  /** What is to be known of the image and its labels, one sentence each. */
  notes: string[];
}

/** Labelled pictures that are learned from as well. */
export interface Folder {
  number: number;
  name: string;
  uri: string;
  used: boolean;
  /** Patches that show each class. */
  classes: Record<string, number>;
  /** Names of the patches. */
  patches: string[];
  notes: string[];
}

/** The working resolution, so many times coarser than at the start, and what to say of it. */
export interface Resolution {
  factor: number;
  values: { factor: number; text: string }[];
  /** That another resolution suits better, or that the page has changed to it; "" for nothing. */
  text: string;
  /** The factor that is offered. */
  to: number;
  /** Whether the page has changed it already, and `to` takes this back. */
  is_kept: boolean;
}

export interface Info {
  version: string;
  /** Tells apart starts of the server. */
  start: string;
  patch: number;
  out: string;
  classes: ClassInfo[];
  sources: SourceInfo[];
  folders: Folder[];
  notes: string[];
}

export interface Labels {
  revision: number;
  /** What a run segments; null: everything. */
  area: Geometry | null;
  features: Feature[];
  undo: boolean;
  redo: boolean;
  classes: ClassInfo[];
}

export interface OpsAnswer {
  revision: number;
  area: Geometry | null;
  changed: Feature[];
  removed: string[];
  undo: boolean;
  redo: boolean;
  classes: ClassInfo[];
}

export type Op =
  | { op: "add"; feature: Feature }
  | { op: "replace"; id: string; feature: Feature }
  | { op: "delete"; ids: string[] }
  | { op: "brush"; line: XY[]; radius: number; class: string | null; kind: "object" | "not"; target: string | null }
  | { op: "erase"; line: XY[]; radius: number; ids: string[] | null }
  | { op: "split"; id: string; line: XY[] }
  | { op: "merge"; ids: string[] }
  | { op: "relabel"; ids: string[]; class: string }
  | { op: "undo" }
  | { op: "redo" }
  | { op: "class"; name: string; colour: string; rename_from: string | null };

export type PreviewState = "empty" | "computing" | "ready" | "stale" | "paused";

export interface PreviewStatus {
  revision: number;
  state: PreviewState;
  cells_done: number;
  cells_total: number;
  seconds: number;
  message?: string | null;
}

export interface Outlines {
  revision: number;
  count: number;
  area_fraction: number;
  truncated: boolean;
  features: Feature[];
}

export interface Round {
  number: number;
  time: string | number;
  revision: number;
  source: string;
  iou: number | null;
  iou_by_class: Record<string, number | null> | (number | null)[];
  counts: { class: string; drawn: number; found: number }[];
  n_regions: number;
  /** Regions that the preview filled in: they agree with it more than they should. */
  n_prefilled: number;
  /** The round that it is compared with, of the same encoder and resolution; null: none. */
  before: number | null;
  worse: boolean;
  state: "scoring" | "done";
}

export interface Suggestion {
  x0: number;
  y0: number;
  x1: number;
  y1: number;
  why: "random" | "typical";
  image: string;
}

export interface RunResult {
  source: string;
  count: number | null;
  interval: [number, number] | null;
  warnings: string[];
  report_url: string | null;
}

export interface Run {
  id: string;
  state: "running" | "done" | "failed" | "cancelled";
  sources: string[];
  commands: string[];
  stage: string | null;
  done: number;
  total: number;
  message: string | null;
  count: number | null;
  report_url: string | null;
  results: RunResult[];
}

export type Cell = string | number | boolean | null;
export type Column = string | { name: string; unit?: string | null };

export interface Table {
  total: number;
  columns: Column[];
  rows: (Cell[] | Record<string, Cell>)[];
}

export interface Histogram {
  edges: number[];
  counts: number[];
  unit: string | null;
}

export interface ServerEvent {
  type: "labels" | "preview" | "round" | "run" | "classes" | "folders" | "resolution";
  source?: string;
  [key: string]: unknown;
}
