/** Two small charts as SVG: the rounds, and a histogram with a brush. */
import { svg } from "./dom.ts";
import type { Histogram, Round } from "./types.ts";

/** Line of the held-out IoU over the rounds, 0 at the bottom and 1 at the top. */
export function roundsChart(rounds: Round[], width: number, height: number): SVGElement {
  const left = 30;
  const right = 10;
  const top = 10;
  const bottom = 20;
  const scored = rounds.filter((round) => round.iou !== null);
  const last = Math.max(...rounds.map(({ number }) => number), 2);
  const first = Math.min(...rounds.map(({ number }) => number), 1);
  const values = scored.map(({ iou }) => iou!);
  const low = values.length ? Math.max(0, Math.floor((Math.min(...values) - 0.1) * 5) / 5) : 0;
  const high = values.length ? Math.min(1, Math.ceil((Math.max(...values) + 0.1) * 5) / 5) : 1;
  const x = (number: number): number => left + ((number - first) / Math.max(last - first, 1)) * (width - left - right);
  const y = (iou: number): number => top + (1 - (iou - low) / Math.max(high - low, 0.2)) * (height - top - bottom);
  const lines: SVGElement[] = [];
  for (const iou of [low, (low + high) / 2, high]) {
    lines.push(svg("line", { x1: left, x2: width - right, y1: y(iou), y2: y(iou), class: "grid" }));
    lines.push(svg("text", { x: left - 6, y: y(iou) + 4, class: "axis end" }, iou.toFixed(2).replace(/^0/, "")));
  }
  const path = scored
    .map(({ number, iou }, i) => `${i ? "L" : "M"}${x(number).toFixed(1)} ${y(iou!).toFixed(1)}`)
    .join("");
  const dots = scored.map((round) =>
    svg(
      "circle",
      { cx: x(round.number), cy: y(round.iou!), r: 4, class: round.worse ? "dot worse" : "dot" },
      svg(
        "title",
        {},
        `Round ${round.number}: held-out IoU ${round.iou!.toFixed(3)}${round.worse ? ", worse than the round before" : ""}`,
      ),
    ),
  );
  const every = Math.ceil((last - first + 1) / 8);
  const ticks = rounds
    .filter(({ number }) => (number - first) % every === 0)
    .map(({ number }) => svg("text", { x: x(number), y: height - 5, class: "axis middle" }, String(number)));
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      class: "chart",
      role: "img",
      "aria-label": `Held-out IoU of ${rounds.length} rounds`,
    },
    ...lines,
    svg("path", { d: path, class: "line" }),
    ...dots,
    ...ticks,
  );
}

export function short(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return size >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

/** Index range of the bins that a brush from `a` to `b` (fractions of the width) covers. */
export function brushed(edges: readonly number[], a: number, b: number): [number, number] {
  const bins = edges.length - 1;
  const first = Math.min(bins - 1, Math.max(0, Math.floor(Math.min(a, b) * bins)));
  const last = Math.min(bins, Math.max(first + 1, Math.ceil(Math.max(a, b) * bins)));
  return [edges[first]!, edges[last]!];
}

export interface HistogramOptions {
  width: number;
  height: number;
  range: [number | null, number | null];
  onBrush: (range: [number, number] | null) => void;
  label: string;
}

/** Bars that can be brushed: a drag selects a range of bins, a click outside clears it. */
export function histogramChart(
  { edges, counts, unit }: Histogram,
  { width, height, range, onBrush, label }: HistogramOptions,
): SVGElement {
  const bottom = 18;
  const top = 4;
  const most = Math.max(...counts, 1);
  const bins = counts.length;
  const bar = width / Math.max(bins, 1);
  const [low, high] = range;
  const bars = counts.map((count, i) => {
    const tall = (count / most) * (height - bottom - top);
    const on = (low === null || edges[i + 1]! > low) && (high === null || edges[i]! < high);
    return svg(
      "rect",
      {
        x: i * bar + 0.5,
        y: height - bottom - Math.max(tall, count ? 1.5 : 0),
        width: Math.max(bar - 1, 0.5),
        height: Math.max(tall, count ? 1.5 : 0),
        class: on ? "bar" : "bar off",
      },
      svg(
        "title",
        {},
        `${short(edges[i]!)} – ${short(edges[i + 1]!)}${unit ? ` ${unit}` : ""}: ${count.toLocaleString("en")}`,
      ),
    );
  });
  const ticks = [0, Math.floor(bins / 2), bins].map((i, n) =>
    svg(
      "text",
      { x: i * bar, y: height - 4, class: `axis ${["start", "middle", "end"][n]}` },
      edges[i] === undefined ? "" : short(edges[i]!),
    ),
  );
  const shade = svg("rect", { y: 0, height: height - bottom, class: "brush", width: 0, x: 0 });
  const chart = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "chart histogram", role: "img", "aria-label": label },
    ...bars,
    svg("line", { x1: 0, x2: width, y1: height - bottom, y2: height - bottom, class: "grid" }),
    shade,
    ...ticks,
  );
  let from: number | null = null;
  const fraction = (event: PointerEvent): number => {
    const box = chart.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  chart.addEventListener("pointerdown", (event) => {
    from = fraction(event as PointerEvent);
    chart.setPointerCapture((event as PointerEvent).pointerId);
  });
  chart.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = fraction(event as PointerEvent);
    shade.setAttribute("x", String(Math.min(from, to) * width));
    shade.setAttribute("width", String(Math.abs(to - from) * width));
  });
  chart.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const to = fraction(event as PointerEvent);
    onBrush(Math.abs(to - from) < 0.008 ? null : brushed(edges, from, to));
    from = null;
  });
  return chart;
}
