/** The tools at the left, and the options of the current one over the map. */
import type { App } from "../app.ts";
import { button, h, replace } from "../dom.ts";
import { keyOf, type ToolName } from "../keys.ts";
import { colourOf } from "../styles.ts";
import { slider } from "./fields.ts";

const TOOLS: { tool: ToolName; name: string; group: number }[] = [
  { tool: "select", name: "Select", group: 0 },
  { tool: "region", name: "Region", group: 1 },
  { tool: "area", name: "Area", group: 1 },
  { tool: "polygon", name: "Polygon", group: 2 },
  { tool: "lasso", name: "Lasso", group: 2 },
  { tool: "brush", name: "Brush", group: 2 },
  { tool: "eraser", name: "Eraser", group: 2 },
  { tool: "wand", name: "Magic wand", group: 2 },
  { tool: "split", name: "Split", group: 2 },
  { tool: "not", name: "Not this", group: 3 },
  { tool: "point", name: "Point", group: 3 },
];

const HINTS: Record<ToolName, string> = {
  select: "Click a label or a found object · Shift adds · drag moves the view",
  region: "Click for a square, or drag · outline everything in it",
  area: "Click corners, or drag round what a run segments · inside an area: a hole",
  polygon: "Click corners · double-click or Enter closes · ⌫ takes one back",
  lasso: "Draw round one whole object",
  brush: "Paint an object, or a part of a large one · start inside one to extend it",
  eraser: "Drag over what to remove",
  not: "Stroke over background",
  point: "In a region, click once on every object · on a point removes it · Shift-click on background",
  wand: "Click an object · Enter or a second click accepts",
  split: "Draw a line across the selected object",
};

export function toolbar(app: App): HTMLElement {
  const buttons = new Map<ToolName, HTMLButtonElement>();
  const bar = h("nav", {
    class: "toolbar",
    role: "toolbar",
    "aria-label": "Tools",
    "aria-orientation": "vertical",
    "data-tips": "right",
  });
  let group = 0;
  for (const { tool, name, group: own } of TOOLS) {
    if (own !== group) bar.append(h("div", { class: "divider", role: "presentation" }));
    group = own;
    const made = button({
      label: name,
      icon: tool,
      key: keyOf(`tool:${tool}`),
      id: `tool-${tool}`,
      onclick: () => app.setTool(tool),
    });
    buttons.set(tool, made);
    bar.append(made);
  }
  bar.addEventListener("keydown", (event) => {
    const all = [...bar.querySelectorAll("button")];
    const now = all.indexOf(document.activeElement as HTMLButtonElement);
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (now < 0 || !step) return;
    event.preventDefault();
    event.stopPropagation();
    all[(now + step + all.length) % all.length]!.focus();
  });
  app.on("tool", () =>
    buttons.forEach((element, tool) => element.setAttribute("aria-pressed", tool === app.tool ? "true" : "false")),
  );
  return bar;
}

/** Name, radius and class of the current tool, over the map. */
export function toolOptions(app: App): HTMLElement {
  const bar = h("div", { class: "float tool-options" });
  const radius = slider({
    label: "Radius",
    key: `${keyOf("smaller")} ${keyOf("larger")}`,
    min: 1,
    max: 100,
    step: 1,
    value: app.settings.radius,
    id: "radius",
    text: (value) => `${value} px`,
    oninput: (value) => app.set({ radius: value }),
  });
  const draw = (): void => {
    const { tool, activeClass } = app;
    const named = TOOLS.find((other) => other.tool === tool)!.name;
    const draws = ["polygon", "lasso", "brush", "wand", "point"].includes(tool);
    replace(
      bar,
      h("strong", {}, named),
      draws && activeClass ? chip(activeClass) : null,
      ["brush", "eraser", "not"].includes(tool) ? radius.element : null,
      h("span", { class: "quiet hint" }, HINTS[tool]),
    );
  };
  app.on(["tool", "classes"], draw);
  app.on("settings", () => radius.set(app.settings.radius));
  return bar;
}

export function chip(name: string): HTMLElement {
  const dot = h("span", { class: "dot" });
  dot.style.background = colourOf(name);
  return h("span", { class: "chip" }, dot, h("span", { class: "ellipsis" }, name));
}
