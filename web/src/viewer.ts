/** The map: image, preview, results and labels of one source, in the image-px frame with y turned for the library. */
import OlMap from "ol/Map.js";
import View from "ol/View.js";
import OlFeature from "ol/Feature.js";
import GeoJSON from "ol/format/GeoJSON.js";
import type Geometry from "ol/geom/Geometry.js";
import DragPan from "ol/interaction/DragPan.js";
import KeyboardPan from "ol/interaction/KeyboardPan.js";
import MouseWheelZoom from "ol/interaction/MouseWheelZoom.js";
import PinchZoom from "ol/interaction/PinchZoom.js";
import TileLayer from "ol/layer/Tile.js";
import VectorLayer from "ol/layer/Vector.js";
import Projection from "ol/proj/Projection.js";
import ImageTile from "ol/source/ImageTile.js";
import VectorSource from "ol/source/Vector.js";
import TileGrid from "ol/tilegrid/TileGrid.js";
import { clipBox, flip, flipBox, flipGeometry, outside, resolutions } from "./frame.ts";
import { DIMMED, labelStyle, outlineStyle, proposalStyle, sketchStyle } from "./styles.ts";
import type { Geometry as Area, Box, Feature, SourceInfo, XY } from "./types.ts";

const format = new GeoJSON();

/** The map library's feature, with the page's own one as `data`. */
export function toOl(feature: Feature): OlFeature {
  const made = new OlFeature(format.readGeometry(flipGeometry(feature.geometry)) as Geometry);
  made.setId(feature.id);
  made.set("data", feature, true);
  return made;
}

export function dataOf(feature: OlFeature): Feature {
  return feature.get("data") as Feature;
}

export function geometryOf(feature: OlFeature): Feature["geometry"] {
  const geometry = format.writeGeometryObject(feature.getGeometry()!) as unknown as Feature["geometry"];
  return flipGeometry(geometry);
}

export class Viewer {
  readonly map: OlMap;
  readonly labels = new VectorSource();
  readonly outlines = new VectorSource();
  readonly proposal = new VectorSource();
  readonly sketch = new VectorSource();
  readonly marks = new VectorSource();
  private readonly dimmed = new VectorSource();
  private area: string | null = null;
  readonly labelLayer: VectorLayer;
  readonly outlineLayer: VectorLayer;
  source: SourceInfo | null = null;
  projection = new Projection({ code: "image", units: "pixels", extent: [0, -1, 1, 0] });
  grid = new TileGrid({ origin: [0, 0], extent: [0, -1, 1, 0], resolutions: [1], tileSize: 256 });
  selected = new Set<string>();
  /** Whether this source was looked at before, and the view is where it was. */
  returned = false;
  /** Whether a drag moves the view, whatever the tool: the space bar is down. */
  spaceDown = false;
  dragMoves = true;
  private readonly image = new TileLayer({ zIndex: 0, preload: 2 });
  private shown = new Map<string, Feature>();
  private places = new Map<string, { center: number[]; resolution: number }>();
  private visited: { center: number[]; resolution: number }[] = [];

  constructor(target: HTMLElement) {
    this.labelLayer = new VectorLayer({
      source: this.labels,
      zIndex: 30,
      style: (feature, resolution) => labelStyle(dataOf(feature as OlFeature), resolution, this.selected),
      updateWhileInteracting: true,
      updateWhileAnimating: true,
    });
    this.outlineLayer = new VectorLayer({
      source: this.outlines,
      zIndex: 20,
      style: (feature) => outlineStyle(dataOf(feature as OlFeature)),
    });
    this.map = new OlMap({
      target,
      controls: [],
      keyboardEventTarget: document,
      interactions: [
        new DragPan({
          condition: (event) => {
            const pressed = event.originalEvent as PointerEvent;
            return (
              pressed.button === 1 || this.spaceDown || (this.dragMoves && pressed.button === 0 && !pressed.shiftKey)
            );
          },
        }),
        new MouseWheelZoom({ duration: 120, timeout: 40 }),
        new PinchZoom(),
        new KeyboardPan({
          condition: (event) => {
            const pressed = event.originalEvent as KeyboardEvent;
            const on = pressed.target as HTMLElement;
            return (
              !pressed.altKey &&
              !pressed.ctrlKey &&
              !pressed.defaultPrevented &&
              (on === target || on === document.body)
            );
          },
        }),
      ],
      layers: [
        this.image,
        this.outlineLayer,
        new VectorLayer({ source: this.dimmed, zIndex: 25, style: DIMMED, updateWhileInteracting: true }),
        this.labelLayer,
        new VectorLayer({ source: this.marks, zIndex: 35, style: proposalStyle }),
        new VectorLayer({ source: this.proposal, zIndex: 40, style: proposalStyle }),
        new VectorLayer({ source: this.sketch, zIndex: 50, style: sketchStyle, updateWhileInteracting: true }),
      ],
    });
    target.addEventListener("mousedown", (event) => {
      if (event.button === 1) event.preventDefault(); // no scrolling mark under a middle-button drag
    });
  }

  open(source: SourceInfo): void {
    const before = this.map.getView();
    const center = before.getCenter();
    if (this.source && center) this.places.set(this.source.id, { center, resolution: before.getResolution() ?? 1 });
    this.source = source;
    const extent = [0, -source.height, source.width, 0];
    this.projection = new Projection({ code: `image-${source.id}`, units: "pixels", extent });
    this.grid = new TileGrid({
      origin: [0, 0],
      extent,
      resolutions: resolutions(source.max_zoom),
      tileSize: source.tile,
    });
    this.image.setExtent(extent); // tiles at the edges are padded
    this.image.setSource(this.tiles(`/tile/image/${encodeURIComponent(source.id)}`, "jpg", `?v=${source.key}`));
    const size = this.map.getSize() ?? [800, 600];
    const whole = Math.max(source.width / (size[0] ?? 800), source.height / (size[1] ?? 600)) * 1.04;
    const view = new View({
      projection: this.projection,
      extent,
      constrainOnlyCenter: true,
      showFullExtent: true,
      smoothExtentConstraint: false,
      maxResolution: Math.max(whole * 2, 1),
      minResolution: 1 / 32,
      enableRotation: false,
    });
    const place = this.places.get(source.id);
    this.returned = place !== undefined;
    view.setCenter(place?.center ?? [source.width / 2, -source.height / 2]);
    view.setResolution(place?.resolution ?? whole);
    this.map.setView(view);
    this.visited = [];
    for (const layer of [this.labels, this.outlines, this.proposal, this.sketch, this.marks]) layer.clear(true);
    this.shown.clear();
    this.dim(null);
    this.selected.clear();
  }

  /** A source of tiles on this image's grid. */
  tiles(path: string, suffix: "jpg" | "png", search = ""): ImageTile {
    return new ImageTile({
      url: `${path}/{z}/{x}/{y}.${suffix}${search}`,
      tileGrid: this.grid,
      projection: this.projection,
      wrapX: false,
      transition: 0,
      interpolate: true,
    });
  }

  get view(): View {
    return this.map.getView();
  }

  get resolution(): number {
    return this.view.getResolution() ?? 1;
  }

  /** What of the image is on the screen, or null. */
  box(): Box | null {
    if (!this.source || !this.map.getSize()) return null;
    return clipBox(flipBox(this.view.calculateExtent(this.map.getSize())), this.source.width, this.source.height);
  }

  centre(): XY {
    return flip(this.view.getCenter() ?? [0, 0]);
  }

  at(pixel: number[]): XY {
    return flip(this.map.getCoordinateFromPixel(pixel) ?? [0, 0]);
  }

  fit(box?: Box, room = 80, duration = 220): void {
    if (!this.source) return;
    this.remember();
    const wanted = box ?? [0, 0, this.source.width, this.source.height];
    this.view.fit(flipBox(wanted), {
      padding: box ? [room, room, room + 30, room] : [16, 16, 16, 16],
      duration,
      minResolution: 0.25,
    });
  }

  private remember(): void {
    const center = this.view.getCenter();
    if (center) this.visited.push({ center, resolution: this.resolution });
    if (this.visited.length > 50) this.visited.shift();
  }

  back(): void {
    const place = this.visited.pop();
    if (place) this.view.animate({ ...place, duration: 220 });
  }

  /** Shows the middle of the view at a scale, image px per screen px. */
  toScale(resolution: number): void {
    this.remember();
    this.view.animate({ resolution, duration: 300 });
  }

  zoom(factor: number): void {
    this.view.animate({
      resolution: this.view.getConstrainedResolution(this.resolution / factor) ?? this.resolution / factor,
      duration: 120,
    });
  }

  /** Draws these labels; only what changed is touched. */
  show(features: Map<string, Feature>): void {
    for (const [id] of this.shown) {
      if (!features.has(id)) {
        const old = this.labels.getFeatureById(id);
        if (old) this.labels.removeFeature(old as OlFeature);
        this.selected.delete(id);
      }
    }
    const added: OlFeature[] = [];
    for (const [id, feature] of features) {
      const before = this.shown.get(id);
      if (before === feature) continue;
      const old = before ? (this.labels.getFeatureById(id) as OlFeature | null) : null;
      if (old) {
        old.set("data", feature, true);
        old.setGeometry(format.readGeometry(flipGeometry(feature.geometry)) as Geometry);
        old.changed();
      } else added.push(toOl(feature));
    }
    this.labels.addFeatures(added);
    this.shown = new Map(features);
  }

  /** Dims what is outside an area, or nothing without one; whether that has changed. */
  dim(area: Area | null): boolean {
    const key = area && JSON.stringify(area);
    if (key === this.area) return false;
    this.area = key;
    this.dimmed.clear();
    if (area && this.source) {
      const made = outside(area, this.source.width, this.source.height).map((rings) => {
        return new OlFeature(format.readGeometry(flipGeometry({ type: "Polygon", coordinates: rings })) as Geometry);
      });
      this.dimmed.addFeatures(made);
    }
    return true;
  }

  /** Ids of what is drawn inside an extent of the map library, without regions. */
  labelsIn(extent: number[]): string[] {
    const ids: string[] = [];
    this.labels.forEachFeatureIntersectingExtent(extent, (feature) => {
      if (dataOf(feature).properties.kind !== "region" && dataOf(feature).properties.kind !== "area")
        ids.push(String(feature.getId()));
    });
    return ids;
  }

  featureOf(id: string): OlFeature | null {
    return this.labels.getFeatureById(id) as OlFeature | null;
  }

  restyle(): void {
    this.labelLayer.changed();
  }
}
