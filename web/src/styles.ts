/** How labels, found objects, proposals and strokes in progress are drawn. */
import type OlFeature from "ol/Feature.js";
import type { FeatureLike } from "ol/Feature.js";
import Circle from "ol/style/Circle.js";
import Fill from "ol/style/Fill.js";
import Stroke from "ol/style/Stroke.js";
import Style from "ol/style/Style.js";
import Text from "ol/style/Text.js";
import type { Feature } from "./types.ts";

let colours = new Map<string, string>();
let hidden = new Set<string>();

export function setColours(classes: Iterable<{ name: string; colour: string }>, off: Set<string>): void {
  colours = new Map([...classes].map(({ name, colour }) => [name, colour]));
  hidden = off;
}

export function colourOf(name: string | null): string {
  return (name !== null && colours.get(name)) || "#8899aa";
}

const HEX = /^#?([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i;

export function rgb(colour: string): [number, number, number] {
  const match = HEX.exec(colour);
  return match ? [parseInt(match[1]!, 16), parseInt(match[2]!, 16), parseInt(match[3]!, 16)] : [136, 153, 170];
}

export function rgba(colour: string, alpha: number): string {
  return `rgba(${rgb(colour).join(",")},${alpha})`;
}

/** Radius of the marker of a point, screen px; and where more than so many image px are one on the screen. */
export const POINT_SIZE = 5;
const FAR_SIZE = 3;
const FAR = 3;

const NOT = "#e5484d";
export const AREA = "#ffd24a";
/** Over what is outside the area. */
export const DIMMED = new Style({ fill: new Fill({ color: "rgba(16,20,26,.6)" }) });
const CASING = "rgba(10,14,20,.55)";

/** One style each for what looks alike: they are shared by thousands of features. */
const cache = new Map<string, Style[]>();
function cached(key: string, make: () => Style[]): Style[] {
  let styles = cache.get(key);
  if (!styles) cache.set(key, (styles = make()));
  return styles;
}

const cased = (colour: string, width: number, fill: string | null, dash: number[] | null = null): Style[] => [
  new Style({
    stroke: new Stroke({ color: CASING, width: width + 2 }),
    ...(fill ? { fill: new Fill({ color: fill }) } : {}),
  }),
  new Style({ stroke: new Stroke({ color: colour, width, ...(dash ? { lineDash: dash } : {}) }) }),
];

export function labelStyle(feature: Feature, resolution: number, selected: ReadonlySet<string>): Style[] {
  const { kind, class: name, negative, radius, erase } = feature.properties;
  if (name !== null && hidden.has(name)) return [];
  const chosen = selected.has(feature.id);
  const colour = kind === "not" || negative ? NOT : kind === "ignore" ? "#9aa4b2" : colourOf(name);
  if (radius !== undefined) {
    const width = Math.max((2 * radius) / resolution, 2);
    return [
      new Style({
        stroke: new Stroke({
          color: erase ? "rgba(255,255,255,.55)" : rgba(colour, 0.45),
          width,
          lineCap: "round",
          lineJoin: "round",
        }),
      }),
    ];
  }
  if (kind === "point") {
    const size = resolution > FAR ? FAR_SIZE : POINT_SIZE;
    return cached(`point|${colour}|${negative}|${chosen}|${size}`, () => [
      new Style({
        image: new Circle({
          radius: chosen ? size + 2 : size,
          fill: new Fill({ color: colour }),
          stroke: new Stroke({ color: chosen ? "#fff" : "rgba(255,255,255,.9)", width: chosen ? 3 : 1.5 }),
        }),
        ...(negative && size === POINT_SIZE
          ? { text: new Text({ text: "–", font: "bold 10px system-ui", fill: new Fill({ color: "#fff" }) }) }
          : {}),
      }),
    ]);
  }
  if (kind === "region") {
    return cached(`region|${chosen}`, () => [
      new Style({
        stroke: new Stroke({ color: CASING, width: chosen ? 5 : 4 }),
        fill: new Fill({ color: "rgba(255,255,255,.001)" }),
      }),
      new Style({
        stroke: new Stroke({ color: chosen ? "#ffd24a" : "#fff", width: chosen ? 3 : 2, lineDash: [8, 5] }),
      }),
    ]);
  }
  if (kind === "area") {
    return cached(`area|${negative}|${chosen}`, () =>
      cased(chosen ? "#ffffff" : AREA, chosen ? 3 : 2, "rgba(255,255,255,.001)", negative ? [3, 5] : null),
    );
  }
  const negativeArea = kind === "not";
  return cached(`${kind}|${colour}|${chosen}`, () =>
    chosen
      ? [...cased("#ffffff", 3.5, rgba(colour, 0.32)), new Style({ stroke: new Stroke({ color: colour, width: 1.5 }) })]
      : cased(colour, 2, rgba(colour, negativeArea ? 0.22 : 0.16), negativeArea || kind === "ignore" ? [4, 4] : null),
  );
}

export function outlineStyle(feature: Feature): Style[] {
  const name = feature.properties.class;
  if (name !== null && hidden.has(name)) return [];
  const colour = colourOf(name);
  return cached(`outline|${colour}`, () => [
    new Style({
      stroke: new Stroke({ color: "rgba(255,255,255,.75)", width: 2.5 }),
      fill: new Fill({ color: "rgba(255,255,255,.001)" }),
    }),
    new Style({ stroke: new Stroke({ color: colour, width: 1.25 }) }),
  ]);
}

export function proposalStyle(feature: FeatureLike): Style[] {
  const data = (feature as OlFeature).get("data") as Feature | undefined;
  const mark = (feature as OlFeature).get("mark") as string | undefined;
  if (mark) {
    return cached(`mark|${mark}`, () =>
      mark === "target"
        ? [
            new Style({ image: new Circle({ radius: 15, stroke: new Stroke({ color: CASING, width: 5 }) }) }),
            new Style({ image: new Circle({ radius: 15, stroke: new Stroke({ color: "#ffd24a", width: 2.5 }) }) }),
          ]
        : [
            new Style({
              image: new Circle({
                radius: 4,
                fill: new Fill({ color: "#ffd24a" }),
                stroke: new Stroke({ color: "rgba(10,14,20,.8)", width: 1.25 }),
              }),
            }),
          ],
    );
  }
  const kind = data?.properties.kind ?? "object";
  const colour = kind === "region" ? "#ffffff" : colourOf(data?.properties.class ?? null);
  return cached(`proposal|${kind}|${colour}`, () =>
    kind === "region"
      ? cased("#ffd24a", 2.5, null, [8, 5])
      : [
          new Style({
            stroke: new Stroke({ color: "rgba(10,14,20,.75)", width: 4 }),
            fill: new Fill({ color: rgba(colour, 0.22) }),
          }),
          new Style({ stroke: new Stroke({ color: "#fff", width: 2.2 }) }),
          new Style({ stroke: new Stroke({ color: colour, width: 2.2, lineDash: [6, 5] }) }),
        ],
  );
}

/** A stroke in progress: `width` in screen px is set on the feature. */
export function sketchStyle(feature: FeatureLike): Style[] {
  const look = (feature as OlFeature).get("look") as
    { colour: string; width: number; fill: boolean; dash: boolean } | undefined;
  if (!look) return cased("#fff", 2, "rgba(255,255,255,.12)");
  if (look.width > 0)
    return [
      new Style({
        stroke: new Stroke({ color: rgba(look.colour, 0.5), width: look.width, lineCap: "round", lineJoin: "round" }),
      }),
    ];
  return cased(look.colour, 2, look.fill ? rgba(look.colour, 0.15) : null, look.dash ? [8, 5] : null);
}
