/** Tile layers of answers. A new answer replaces the old one when all of its tiles are there: nothing flickers. */
import TileLayer from "ol/layer/Tile.js";
import WebGLTileLayer from "ol/layer/WebGLTile.js";
import type ImageTile from "ol/source/ImageTile.js";
import { rgb } from "./styles.ts";
import type { Viewer } from "./viewer.ts";

/** Whether tiles can be coloured by the graphics card (or its software stand-in). */
export function hasWebGL(): boolean {
  try {
    const context = document.createElement("canvas").getContext("webgl");
    if (!context) return false;
    context.getExtension("WEBGL_lose_context")?.loseContext();
    return true;
  } catch {
    return false;
  }
}

export interface Look {
  colour: string;
  threshold: number;
  opacity: number;
  visible: boolean;
  /** The area above the threshold, the value as a ramp of colours, or one colour, denser the nearer to the threshold. */
  mode: "area" | "heat" | "unsure";
}

const MODES: Look["mode"][] = ["area", "heat", "unsure"];

type Layer = WebGLTileLayer | TileLayer;

function webglLayer(zIndex: number): WebGLTileLayer {
  const known = [">", ["band", 4], 0.5];
  const above = [">=", ["band", 1], ["var", "threshold"]];
  const solid = ["array", ["var", "red"], ["var", "green"], ["var", "blue"], 1];
  const ramp = [
    "interpolate",
    ["linear"],
    ["band", 1],
    0,
    [13, 8, 135, 0.65],
    0.25,
    [126, 3, 168, 0.75],
    0.5,
    [204, 71, 120, 0.85],
    0.75,
    [248, 149, 64, 0.9],
    1,
    [240, 249, 33, 0.95],
  ];
  const apart = [
    "case",
    above,
    ["/", ["-", ["band", 1], ["var", "threshold"]], ["-", 1.000001, ["var", "threshold"]]],
    ["/", ["-", ["var", "threshold"], ["band", 1]], ["+", 0.000001, ["var", "threshold"]]],
  ];
  const dense = ["array", ["var", "red"], ["var", "green"], ["var", "blue"], ["^", ["-", 1, apart], 1.5]];
  return new WebGLTileLayer({
    zIndex,
    cacheSize: 256,
    style: {
      variables: { threshold: 0.5, red: 1, green: 0, blue: 0, mode: 0 },
      color: [
        "case",
        ["!", known],
        [0, 0, 0, 0],
        ["==", ["var", "mode"], 1],
        ramp,
        ["==", ["var", "mode"], 2],
        dense,
        above,
        solid,
        [0, 0, 0, 0],
      ],
    },
  });
}

/** One answer: the area of a class, its probability, or where that is unsure. */
export class AnswerLayer {
  private readonly viewer: Viewer;
  private readonly webgl: boolean;
  private readonly layers: [Layer, Layer];
  private front = 0;
  private path: string | null = null;
  private stamp = "";
  private waiting: { path: string; stamp: string } | null = null;
  private loading = false;
  private timer = 0;
  private look: Look = { colour: "#ff0000", threshold: 0.5, opacity: 0.5, visible: true, mode: "area" };

  constructor(viewer: Viewer, webgl: boolean, zIndex: number) {
    this.viewer = viewer;
    this.webgl = webgl;
    const make = (): Layer => (webgl ? webglLayer(zIndex) : new TileLayer({ zIndex }));
    this.layers = [make(), make()];
    for (const layer of this.layers) {
      layer.setVisible(false);
      viewer.map.addLayer(layer);
    }
  }

  private get search(): string {
    const parts = this.stamp ? [`v=${encodeURIComponent(this.stamp)}`] : [];
    if (!this.webgl) {
      parts.push(`paint=${this.look.colour.replace("#", "")}`);
      parts.push(`threshold=${this.look.threshold.toFixed(3)}`);
      if (this.look.mode === "unsure") parts.push("unsure=1");
    }
    return parts.length ? `?${parts.join("&")}` : "";
  }

  style(look: Partial<Look>): void {
    const before = this.look;
    this.look = { ...before, ...look };
    const { colour, threshold, mode } = this.look;
    if (this.webgl) {
      const [red, green, blue] = rgb(colour).map((value) => value / 255);
      for (const layer of this.layers)
        (layer as WebGLTileLayer).updateStyleVariables({
          threshold,
          red: red!,
          green: green!,
          blue: blue!,
          mode: MODES.indexOf(mode),
        });
    } else if (before.colour !== colour || before.threshold !== threshold) {
      window.clearTimeout(this.timer);
      this.timer = window.setTimeout(() => this.path && this.load(this.path, this.stamp), 200);
    }
    this.reveal();
  }

  private reveal(): void {
    const { visible, opacity } = this.look;
    this.layers.forEach((layer, i) => {
      const source = layer.getSource() !== null;
      const back = i !== this.front;
      layer.setVisible(visible && source && (!back || this.loading));
      layer.setOpacity(back ? 0 : opacity);
    });
    if (!visible && this.loading) this.settle();
  }

  /** Shows tiles of `path`; `stamp` tells apart answers that share one. */
  show(path: string, stamp: string): void {
    if (this.path === path && this.stamp === stamp) return;
    if (this.loading) this.waiting = { path, stamp };
    else this.load(path, stamp);
  }

  private load(path: string, stamp: string): void {
    this.path = path;
    this.stamp = stamp;
    const back = this.layers[1 - this.front]!;
    const source = this.viewer.tiles(path, "png", this.search);
    let open = 0;
    let begun = false;
    const done = (): void => {
      open--;
      if (open <= 0) window.setTimeout(() => open <= 0 && back.getSource() === source && this.settle(), 30);
    };
    source.on("tileloadstart", () => {
      begun = true;
      open++;
    });
    source.on("tileloadend", done);
    source.on("tileloaderror", done);
    (back as TileLayer<ImageTile>).setSource(source);
    this.loading = true;
    this.reveal();
    window.setTimeout(() => back.getSource() === source && !begun && this.settle(), 400);
    window.setTimeout(() => back.getSource() === source && this.loading && this.settle(), 4000);
  }

  private settle(): void {
    if (!this.loading) return;
    this.loading = false;
    this.front = 1 - this.front;
    this.reveal();
    if (this.waiting) {
      const { path, stamp } = this.waiting;
      this.waiting = null;
      this.show(path, stamp);
    }
  }

  clear(): void {
    this.path = null;
    this.waiting = null;
    this.loading = false;
    for (const layer of this.layers) {
      layer.setSource(null);
      layer.setVisible(false);
    }
  }

  remove(): void {
    for (const layer of this.layers) {
      this.viewer.map.removeLayer(layer);
      layer.dispose();
    }
  }
}
