/** The drawing tools: they turn pointers into operations. */
import OlFeature from "ol/Feature.js";
import LineString from "ol/geom/LineString.js";
import OlPolygon from "ol/geom/Polygon.js";
import Collection from "ol/Collection.js";
import DragBox from "ol/interaction/DragBox.js";
import Modify from "ol/interaction/Modify.js";
import PointerInteraction from "ol/interaction/Pointer.js";
import type MapBrowserEvent from "ol/MapBrowserEvent.js";
import { api } from "./api.ts";
import type { Answers } from "./answers.ts";
import { words, type App } from "./app.ts";
import { toast } from "./dom.ts";
import {
  boundsOf,
  boxPolygon,
  clipBox,
  contains,
  flip,
  innerPoint,
  insideImage,
  ringArea,
  simplify,
  toEdge,
} from "./frame.ts";
import { AREA, colourOf, POINT_SIZE } from "./styles.ts";
import type { Box, Feature, Geometry, Kind, XY } from "./types.ts";
import { dataOf, geometryOf, toOl } from "./viewer.ts";

const NOT = "#e5484d";
const SLOP = 4; // screen px that a click may wander

/** Whether a stroke leaves the place where it began, to which it may return. */
function strays(line: readonly XY[], by: number): boolean {
  const [x, y] = line[0]!;
  return line.some((at) => Math.hypot(at[0] - x, at[1] - y) > by);
}

export class Tools {
  private readonly app: App;
  private readonly answers: Answers;
  private readonly modify: Modify;
  private readonly modifiable = new Collection<OlFeature>();
  /** Called when a found object is clicked. */
  onObject: (feature: Feature, at: XY, pixel: number[]) => void = () => undefined;
  onMapClick: (at: XY) => void = () => undefined;
  private line: XY[] = [];
  private start: number[] = [0, 0];
  private corners: XY[] = [];
  private ghost = new OlFeature();
  private ring = new OlFeature();
  private asking = false;
  /** The found object that the next split line cuts, if not a drawn one. */
  splitFound: Feature | null = null;

  constructor(app: App, answers: Answers) {
    this.app = app;
    this.answers = answers;
    const { map } = app.viewer;
    this.modify = new Modify({ features: this.modifiable, pixelTolerance: 8 });
    this.modify.on("modifyend", (event) => {
      for (const feature of event.features.getArray()) {
        const data = dataOf(feature as OlFeature);
        const changed: Feature = { ...data, geometry: geometryOf(feature as OlFeature) };
        app.apply([{ op: "replace", id: data.id, feature: changed }]);
      }
    });
    map.addInteraction(
      new PointerInteraction({
        handleDownEvent: (event) => this.down(event),
        handleDragEvent: (event) => this.drag(event),
        handleUpEvent: (event) => this.up(event),
        stopDown: (handled) => handled,
      }),
    );
    map.addInteraction(this.modify);
    const box = new DragBox({
      className: "select-box",
      condition: (event) => app.tool === "select" && (event.originalEvent as PointerEvent).shiftKey,
    });
    box.on("boxend", () => app.select(app.viewer.labelsIn(box.getGeometry().getExtent()), true));
    map.addInteraction(box);
    map.on("pointermove", (event) => this.move(event));
    map.getViewport()!.addEventListener("pointerleave", () => this.hideRing());
    map.on("moveend", () => this.drawRing());
    app.on(["tool", "source"], () => this.reset());
    app.on(["selection", "labels", "tool"], () => this.matchModify());
    app.on("settings", () => this.drawRing());
    this.reset();
  }

  private reset(): void {
    const { viewer, tool } = this.app;
    this.corners = [];
    this.line = [];
    if (tool !== "split") this.splitFound = null;
    viewer.sketch.clear();
    this.ring = new OlFeature();
    viewer.dragMoves = tool === "select";
    const target = viewer.map.getTargetElement() as HTMLElement;
    target.dataset["tool"] = tool;
    if (tool !== "select" && tool !== "split" && viewer.selected.size) this.app.select([]);
  }

  private matchModify(): void {
    const { viewer, tool } = this.app;
    const ids = [...viewer.selected];
    const feature = tool === "select" && ids.length === 1 ? viewer.featureOf(ids[0]!) : null;
    if (feature && this.modifiable.item(0) === feature) return;
    this.modifiable.clear();
    if (feature && dataOf(feature).properties.radius === undefined) this.modifiable.push(feature);
  }

  /** Whether a polygon is being drawn or a stroke is under way. */
  get drawing(): boolean {
    return this.corners.length > 0 || this.line.length > 0;
  }

  /** Whether clicks are corners: those of an area may also be drawn in one stroke. */
  private get clicksCorners(): boolean {
    return this.app.tool === "polygon" || (this.app.tool === "area" && this.corners.length > 0);
  }

  private colour(): string {
    const { tool, activeClass } = this.app;
    if (tool === "area") return AREA;
    return tool === "not"
      ? NOT
      : tool === "region" || tool === "split"
        ? "#ffffff"
        : tool === "eraser"
          ? "#ffffff"
          : colourOf(activeClass);
  }

  // Pointers

  private down(event: MapBrowserEvent): boolean {
    const pressed = event.originalEvent as PointerEvent;
    const { app } = this;
    if (pressed.button !== 0 || app.viewer.spaceDown) return false;

    (app.viewer.map.getTargetElement() as HTMLElement).focus({ preventScroll: true });
    this.start = event.pixel;
    const at = flip(event.coordinate);
    if (app.tool === "select") return false;
    this.line = [at];
    if (["brush", "eraser", "not", "lasso", "split", "region"].includes(app.tool)) this.sketch(at);
    return true;
  }

  private drag(event: MapBrowserEvent): void {
    const at = flip(event.coordinate);
    const last = this.line.at(-1);
    const pixel = this.app.viewer.resolution;
    if (last && Math.hypot(at[0] - last[0], at[1] - last[1]) < 1.5 * pixel) return;
    this.line.push(at);
    if (!this.clicksCorners) this.sketch(at);
    this.moveRing(at);
  }

  private up(event: MapBrowserEvent): boolean {
    const { app } = this;
    const at = flip(event.coordinate);
    const moved = Math.hypot(event.pixel[0]! - this.start[0]!, event.pixel[1]! - this.start[1]!) > SLOP;
    const line = this.line;
    this.line = [];
    this.ghost = new OlFeature();
    app.viewer.sketch.clear(); // the corners of a polygon are drawn again
    this.ring = new OlFeature();
    const shift = (event.originalEvent as PointerEvent).shiftKey;
    const smooth = simplify(line, 0.4 * app.viewer.resolution);
    switch (app.tool) {
      case "region":
        this.region(
          moved
            ? [
                Math.min(line[0]![0], at[0]),
                Math.min(line[0]![1], at[1]),
                Math.max(line[0]![0], at[0]),
                Math.max(line[0]![1], at[1]),
              ]
            : null,
          at,
        );
        break;
      case "lasso":
        this.lasso(smooth);
        break;
      case "brush":
      case "not":
        this.brush(smooth, app.tool === "not" ? "not" : "object");
        break;
      case "eraser":
        app.apply([{ op: "erase", line: smooth, radius: app.settings.radius, ids: null }]);
        break;
      case "point":
        this.point(at, shift);
        break;
      case "wand":
        void this.wand(at);
        break;
      case "split":
        this.split(smooth);
        break;
      case "area":
        if (!this.corners.length && smooth.length > 2 && strays(line, SLOP * app.viewer.resolution)) this.area(smooth);
        else this.corner(at);
        break;
      case "polygon":
        this.corner(at);
        break;
      default:
        break;
    }
    this.drawRing(at);
    return false;
  }

  /** A click that no drawing tool took: select, or look at a found object. */
  click(event: MapBrowserEvent): void {
    const { app } = this;
    if (app.tool !== "select") return;
    const at = flip(event.coordinate);
    const shift = (event.originalEvent as PointerEvent).shiftKey;
    if (app.proposal) {
      const inside = app.proposal.features.find(
        (feature) => feature.properties.kind !== "region" && contains(feature.geometry, at),
      );
      if (inside) {
        app.leaveOut(inside.id);
        return;
      }
    }
    const hits: Feature[] = [];
    app.viewer.map.forEachFeatureAtPixel(event.pixel, (feature) => void hits.push(dataOf(feature as OlFeature)), {
      layerFilter: (layer) => layer === app.viewer.labelLayer,
      hitTolerance: 3,
    });
    const isFrame = ({ properties }: Feature): boolean => properties.kind === "region" || properties.kind === "area";
    const best = hits.find((feature) => !isFrame(feature));
    const found = best ? null : this.answers.objectAt(event.pixel);
    const edge = hits.find((feature) => isFrame(feature) && this.nearEdge(feature, at));
    if (best) app.select([best.id], shift);
    else if (edge) app.select([edge.id], shift);
    else if (found) {
      app.select([]);
      this.onObject(found, at, event.pixel);
    } else {
      if (!shift) app.select([]);
      this.onMapClick(at);
    }
  }

  private nearEdge(feature: Feature, at: XY): boolean {
    return toEdge(feature.geometry, at) <= 6 * this.app.viewer.resolution;
  }

  private move(event: MapBrowserEvent): void {
    const at = flip(event.coordinate);
    this.app.pointer = at;
    if (this.corners.length) this.sketchPolygon(at);
    this.moveRing(at);
  }

  // Sketches of strokes in progress

  private sketch(at: XY): void {
    const { app, line } = this;
    const width = ["brush", "eraser", "not"].includes(app.tool) ? (2 * app.settings.radius) / app.viewer.resolution : 0;
    const points = (line.length > 1 ? line : [at, at]).map(flip);
    if (app.tool === "region") {
      const [x, y] = line[0]!;
      this.ghost.setGeometry(new OlPolygon([[[x, y], [at[0], y], at, [x, at[1]], [x, y]].map(flip)]));
    } else if ((app.tool === "lasso" || app.tool === "area") && line.length > 2)
      this.ghost.setGeometry(new OlPolygon([[...points, points[0]!]]));
    else this.ghost.setGeometry(new LineString(points));
    this.ghost.set("look", {
      colour: this.colour(),
      width,
      fill: app.tool === "lasso",
      dash: app.tool === "region" || app.tool === "split",
    });
    if (!app.viewer.sketch.hasFeature(this.ghost)) app.viewer.sketch.addFeature(this.ghost);
  }

  private sketchPolygon(at: XY): void {
    const { sketch } = this.app.viewer;
    const points = [...this.corners, at].map(flip);
    this.ghost.setGeometry(points.length > 2 ? new OlPolygon([[...points, points[0]!]]) : new LineString(points));
    this.ghost.set("look", { colour: this.colour(), width: 0, fill: true, dash: false });
    if (!sketch.hasFeature(this.ghost)) sketch.addFeature(this.ghost);
  }

  private moveRing(at: XY): void {
    if (["brush", "eraser", "not"].includes(this.app.tool)) this.drawRing(at);
  }

  /** The outline of the brush at the pointer. */
  private drawRing(at: XY | null = this.app.pointer): void {
    const { app } = this;
    if (!at || !["brush", "eraser", "not"].includes(app.tool)) return this.hideRing();
    const points = Array.from({ length: 33 }, (_, i) =>
      flip([
        at[0] + app.settings.radius * Math.cos((i * Math.PI) / 16),
        at[1] + app.settings.radius * Math.sin((i * Math.PI) / 16),
      ]),
    );
    this.ring.setGeometry(new OlPolygon([points]));
    this.ring.set("look", { colour: this.colour(), width: 0, fill: false, dash: false });
    if (!app.viewer.sketch.hasFeature(this.ring)) app.viewer.sketch.addFeature(this.ring);
  }

  private hideRing(): void {
    const { sketch } = this.app.viewer;
    if (sketch.hasFeature(this.ring)) sketch.removeFeature(this.ring);
  }

  // What the tools do

  private feature(
    geometry: Geometry,
    kind: Kind,
    name: string | null,
    more: Partial<Feature["properties"]> = {},
  ): Feature {
    return {
      type: "Feature",
      id: this.app.store.freshId(),
      geometry,
      properties: { kind, class: name, source: "drawn", ...more },
    };
  }

  /** A region as dragged, or a window of the network's size round `at`. */
  region(dragged: Box | null, at: XY): void {
    const { app } = this;
    const { width, height } = app.source;
    const side = app.info.patch * (app.source.work_scale / (app.info.sources[0]?.work_scale ?? app.source.work_scale));
    const box = dragged
      ? clipBox(dragged, width, height)
      : insideImage([at[0] - side / 2, at[1] - side / 2, at[0] + side / 2, at[1] + side / 2], width, height);
    if (!box) return toast("A region has to lie inside the image.");
    const rounded = box.map(Math.round) as Box;
    if (rounded[2] - rounded[0] < 8 || rounded[3] - rounded[1] < 8)
      return toast(
        "This region is too small to hold an object. Drag further, or click for a window of the usual size.",
      );
    app.apply([{ op: "add", feature: this.feature(boxPolygon(rounded), "region", null) }]);
    if (app.lastStroke && contains(boxPolygon(rounded), app.lastStroke)) app.noteStroke(app.lastStroke);
    const [x0, y0, x1, y1] = rounded;
    const view = app.viewer.box();
    const small = Math.max(x1 - x0, y1 - y0) / app.viewer.resolution < 260;
    if (view && small) app.viewer.fit([x0, y0, x1, y1], 60);
    const { objects, points } = app.tally;
    if (points > 0 && points === objects) app.setTool("point");
    else if (objects === 0 || small) app.setTool("polygon");
  }

  /** Adds an object of the current class; without any class, one is made for it. */
  private addObject(geometry: Geometry, kind: Kind = "object"): void {
    const { app } = this;
    const ops = app.withClass();
    app.apply([...ops, { op: "add", feature: this.feature(geometry, kind, app.activeClass) }]);
    app.noteStroke(innerPoint(geometry), kind === "point");
  }

  private lasso(line: XY[]): void {
    if (line.length < 3 || ringArea(line) < 4 * this.app.viewer.resolution ** 2) return;
    this.addObject({ type: "Polygon", coordinates: [[...line, line[0]!]] });
  }

  private brush(line: XY[], kind: "object" | "not"): void {
    const { app } = this;
    const first = line[0]!;
    let target: string | null = null;
    if (kind === "object") {
      for (const feature of app.store.shown().values()) {
        const { kind: what, class: name, radius } = feature.properties;
        if (what === "object" && name === app.activeClass && radius === undefined && contains(feature.geometry, first))
          target = feature.id;
      }
    }
    const ops = kind === "object" ? app.withClass() : [];
    app.apply([
      ...ops,
      { op: "brush", line, radius: app.settings.radius, class: kind === "not" ? null : app.activeClass, kind, target },
    ]);
    app.noteStroke(line.at(-1)!);
  }

  private point(at: XY, negative: boolean): void {
    const taken = this.pointAt(at);
    if (taken) this.app.apply([{ op: "delete", ids: [taken.id] }]);
    else if (negative)
      this.app.apply([
        { op: "add", feature: this.feature({ type: "Point", coordinates: at }, "point", null, { negative }) },
      ]);
    else this.addObject({ type: "Point", coordinates: at }, "point");
    if (negative && !taken) this.app.noteStroke(at);
  }

  /** The point whose marker is at a place: the nearest one. */
  private pointAt([x, y]: XY): Feature | null {
    let [best, least] = [null as Feature | null, POINT_SIZE * this.app.viewer.resolution];
    for (const feature of this.app.store.shown().values()) {
      if (feature.geometry.type !== "Point") continue;
      const [px, py] = feature.geometry.coordinates;
      const apart = Math.hypot(px - x, py - y);
      if (apart <= least) [best, least] = [feature, apart];
    }
    return best;
  }

  private async wand(at: XY): Promise<void> {
    const { app } = this;
    if (app.proposal?.kind === "wand" && app.proposal.features.some((feature) => contains(feature.geometry, at))) {
      app.acceptProposal();
      return;
    }
    if (this.asking) return;
    const ops = app.withClass();
    if (ops.length) app.apply(ops);
    this.asking = true;
    try {
      const { feature } = await api.wand(app.source.id, at[0], at[1], app.activeClass ?? "");
      if (!feature)
        toast("Nothing there stands out from its surroundings. Try its middle, or outline it with the lasso (L).");
      else
        this.propose("wand", [
          {
            ...feature,
            id: feature.id ?? "wand",
            properties: { ...feature.properties, class: feature.properties.class ?? app.activeClass, source: "wand" },
          },
        ]);
    } catch (error) {
      toast(words(error), "error");
    } finally {
      this.asking = false;
    }
  }

  propose(kind: "wand" | "region", features: Feature[]): void {
    this.app.setProposal({
      kind,
      features: features.map((feature, i) => ({ ...feature, id: feature.id ?? `proposal-${i}` })),
    });
    this.app.viewer.proposal.addFeatures(this.app.proposal!.features.map(toOl));
  }

  /** "Finish this region": a window round a place, filled with what the preview finds there. */
  async finish(at: XY, box: Box | null = null): Promise<void> {
    const { app } = this;
    try {
      const { features } = box
        ? await api.proposeBox(app.source.id, box)
        : await api.propose(app.source.id, at[0], at[1]);
      this.propose("region", features);
      app.setTool("select");
      const region = features.find(({ properties }) => properties.kind === "region");
      const view = app.viewer.box();
      if (region && view) {
        const [x0, y0, x1, y1] = boundsOf(region.geometry);
        if (x0 < view[0] || y0 < view[1] || x1 > view[2] || y1 > view[3]) app.viewer.fit([x0, y0, x1, y1], 60);
      }
      app.lastStroke = null;
      app.emit("labels");
    } catch (error) {
      toast(words(error), "error");
    }
  }

  private split(line: XY[]): void {
    const { app } = this;
    const id = [...app.viewer.selected][0];
    if (line.length < 2) return toast("Draw a line right across the object.");
    if (this.splitFound) {
      const at = this.splitFound;
      const inside = innerPoint(at.geometry);
      this.splitFound = null;
      void app.take(
        () =>
          api.object({
            source: app.source.id,
            x: inside[0],
            y: inside[1],
            threshold: app.settings.threshold,
            action: "split",
            class: at.properties.class,
            line,
          }),
        "Split: both parts are labels now.",
      );
      app.setTool("select");
    } else if (id) {
      app.select([]);
      app.apply([{ op: "split", id, line }]);
      app.setTool("select");
    } else toast("Select the object to split first (V), then draw a line across it.");
  }

  // Polygon

  private corner(at: XY): void {
    const first = this.corners[0];
    const reach = 9 * this.app.viewer.resolution;
    if (first && this.corners.length >= 3 && Math.hypot(at[0] - first[0], at[1] - first[1]) < reach)
      return this.closePolygon();
    const last = this.corners.at(-1);
    if (last && Math.hypot(at[0] - last[0], at[1] - last[1]) < 5 * this.app.viewer.resolution)
      return this.corners.length >= 3 ? this.closePolygon() : undefined; // a double click
    this.corners.push(at);
    this.sketchPolygon(at);
  }

  closePolygon(): void {
    const corners = this.corners;
    this.corners = [];
    this.app.viewer.sketch.clear();
    this.ghost = new OlFeature();
    if (corners.length < 3 || ringArea(corners) === 0) return;
    if (this.app.tool === "area") return this.area(corners);
    this.addObject({ type: "Polygon", coordinates: [[...corners, corners[0]!]] });
  }

  /** Adds to the area that is segmented, or takes away from it what lies wholly inside. */
  private area(ring: XY[]): void {
    const { app } = this;
    if (ringArea(ring) < 4 * app.viewer.resolution ** 2) return;
    const { area } = app.store;
    const negative = area !== null && ring.every((corner) => contains(area, corner));
    const geometry: Geometry = { type: "Polygon", coordinates: [[...ring, ring[0]!]] };
    app.apply([{ op: "add", feature: this.feature(geometry, "area", null, { negative }) }]);
  }

  /** Takes back the last corner of a polygon in progress; false if there is none. */
  dropCorner(): boolean {
    if (!this.corners.length) return false;
    this.corners.pop();
    if (this.corners.length) this.sketchPolygon(this.app.pointer ?? this.corners.at(-1)!);
    else this.app.viewer.sketch.clear();
    return true;
  }

  /** Enter without a proposal: close the polygon, or do at the middle of the view what the tool does at a click. */
  enter(): boolean {
    const { app } = this;
    if (this.corners.length >= 3) {
      this.closePolygon();
      return true;
    }
    const middle = app.viewer.centre();
    if (app.tool === "region") this.region(null, middle);
    else if (app.tool === "point") this.point(middle, false);
    else if (app.tool === "wand") void this.wand(middle);
    else if (app.tool === "polygon" || app.tool === "area") this.corner(middle);
    else return false;
    return true;
  }

  cancel(): boolean {
    if (!this.drawing) return false;
    this.reset();
    return true;
  }
}
