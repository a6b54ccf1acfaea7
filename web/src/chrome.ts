/** The frame round the map: top bar, guide, tools, status bar, and the bars that float over the map. */
import { api } from "./api.ts";
import type { App } from "./app.ts";
import { button, debounce, h, icon, plural, replace } from "./dom.ts";
import { lonLatText, metresPerPixel, placeText, scaleBar, zoomText } from "./frame.ts";
import { nextStep, STEPS, type Situation } from "./guide.ts";
import { BINDINGS, keyCap, keyOf, OTHER_KEYS, type ToolName } from "./keys.ts";
import { colourOf } from "./styles.ts";
import type { Tools } from "./tools.ts";
import { slider } from "./panels/label.ts";

const TOOLS: { tool: ToolName; name: string; group: number }[] = [
  { tool: "select", name: "Select", group: 0 },
  { tool: "region", name: "Region", group: 1 },
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
  region: "Click for one window, or drag",
  polygon: "Click corners · double-click or Enter closes · ⌫ takes one back",
  lasso: "Draw round one object",
  brush: "Paint one object · start inside one to extend it",
  eraser: "Wipe over what is too much",
  not: "Stroke over what is none of your objects",
  point: "Click on an object · Shift-click on what is none",
  wand: "Click an object · Enter or a second click accepts",
  split: "Draw a line across the selected object",
};

export function toolbar(app: App): HTMLElement {
  const buttons = new Map<ToolName, HTMLButtonElement>();
  const bar = h("nav", { class: "toolbar", role: "toolbar", "aria-label": "Tools", "aria-orientation": "vertical", "data-tips": "right" });
  let group = 0;
  for (const { tool, name, group: own } of TOOLS) {
    if (own !== group) bar.append(h("div", { class: "divider", role: "presentation" }));
    group = own;
    const made = button({ label: name, icon: tool, key: keyOf(`tool:${tool}`), id: `tool-${tool}`, onclick: () => app.setTool(tool) });
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
  app.on("tool", () => buttons.forEach((element, tool) => element.setAttribute("aria-pressed", tool === app.tool ? "true" : "false")));
  return bar;
}

/** Name, radius and class of the current tool, over the map. */
export function toolOptions(app: App): HTMLElement {
  const bar = h("div", { class: "float tool-options" });
  const radius = slider({ label: "Radius", key: `${keyOf("smaller")} ${keyOf("larger")}`, min: 1, max: 100, step: 1, value: app.settings.radius, id: "radius", text: (value) => `${value} px`, oninput: (value) => app.set({ radius: value }) });
  const draw = (): void => {
    const { tool, activeClass } = app;
    const named = TOOLS.find((other) => other.tool === tool)!.name;
    const draws = ["polygon", "lasso", "brush", "wand", "point"].includes(tool);
    replace(bar, h("strong", {}, named), draws && activeClass ? chip(activeClass) : null, ["brush", "eraser", "not"].includes(tool) ? radius.element : null, h("span", { class: "quiet hint" }, HINTS[tool]));
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

export function statusPill(app: App): HTMLElement {
  const pill = h("div", { class: "pill", id: "preview-status", role: "status", "aria-live": "polite" });
  const draw = (): void => {
    const { state, cells_done, cells_total, seconds, message } = app.preview;
    const waits = app.store.busy && state === "ready";
    const shown = waits ? "stale" : state;
    const text = {
      empty: message && message.length < 44 ? message : "No preview yet",
      computing: cells_total ? `Computing ${cells_done} of ${cells_total}` : "Computing",
      ready: seconds ? `Up to date · ${seconds.toFixed(seconds < 10 ? 1 : 0)} s` : "Up to date",
      stale: "Stale",
      paused: message && message.length < 44 ? message : "Paused",
    }[shown];
    pill.dataset["state"] = shown;
    pill.dataset["tip"] = message || { empty: "The preview starts at the second labelled object", computing: "The preview of what is in view is being computed; drawing never waits for it", ready: "The preview shows your newest labels", stale: "The preview shows older labels; a new one is on its way", paused: "The preview is paused" }[shown];
    replace(pill, h("span", { class: "lamp" }), h("span", {}, text));
  };
  app.on(["preview", "labels", "source"], draw);
  return pill;
}

export function topbar(app: App, tools: { help: () => void; theme: () => void }): HTMLElement {
  const undo = button({ label: "Undo", icon: "undo", key: keyOf("undo"), id: "undo", onclick: () => app.undo() });
  const redo = button({ label: "Redo", icon: "redo", key: keyOf("redo"), id: "redo", onclick: () => app.redo() });
  const saved = h("span", { class: "saved quiet", "data-tip": `Every edit is saved at once in ${app.info.out}` });
  const name = h("h1", { class: "ellipsis" });
  const link = h("div", { class: "pill", hidden: true }, h("span", { class: "lamp" }), h("span", {}, "No connection to the server"));
  link.dataset["state"] = "lost";
  app.on(["labels", "source"], () => {
    undo.disabled = !app.store.undo && !app.store.busy;
    redo.disabled = !app.store.redo;
    saved.textContent = app.store.busy ? "saving…" : "saved";
  });
  app.on("source", () => {
    name.textContent = app.source.name;
    document.title = `${app.source.name} – Fewscope`;
  });
  app.on("link", () => (link.hidden = app.linked));
  return h("header", { class: "topbar" },
    h("span", { class: "brand", "data-tip": `Fewscope ${app.info.version}` }, mark(), h("span", {}, "Fewscope")),
    name, saved, h("span", { class: "grow" }), link, statusPill(app), undo, redo,
    button({ label: "Dark or light", icon: "moon", key: keyOf("theme"), id: "theme", onclick: tools.theme }),
    button({ label: "All keys", icon: "help", key: keyOf("help"), id: "help", onclick: tools.help }));
}

function mark(): SVGElement {
  const drawn = icon("region", 20);
  drawn.classList.add("mark");
  return drawn;
}

export function guide(app: App, go: (action: NonNullable<ReturnType<typeof nextStep>["action"]>) => void): HTMLElement {
  const steps = h("ol", { class: "steps" });
  const text = h("span", { class: "guide-text", id: "guide-text" });
  const act = h("button", { type: "button", class: "button small", id: "guide-action" });
  const bar = h("div", { class: "guide", role: "status", "aria-live": "polite" }, steps, text, act);
  const words: Record<string, string> = { class: "Name it", region: "Region tool", polygon: "Polygon tool", improve: "Open Improve", run: "Open Run", results: "Open Results", accept: "Accept" };
  let action: ReturnType<typeof nextStep>["action"] = null;
  act.addEventListener("click", () => action && go(action));
  const draw = (): void => {
    const { regions, objects, strokes } = app.tally;
    const last = app.runs.at(-1);
    const now: Situation = {
      classes: app.classes.length, regions, objects, strokes, preview: app.preview.state, rounds: app.rounds.length, worse: app.worse, proposal: app.proposal?.kind ?? "none",
      run: last ? (last.state === "cancelled" ? "none" : last.state) : "none", resultShown: app.result !== null,
    };
    const step = nextStep(now);
    action = step.action;
    replace(steps, ...STEPS.map((name, i) => h("li", { class: i + 1 === step.number ? "now" : i + 1 < step.number ? "past" : "", "aria-current": i + 1 === step.number ? "step" : null, "data-tip": name }, h("span", { class: "n" }, String(i + 1)), i + 1 === step.number ? h("span", {}, name) : null)));
    text.textContent = step.text;
    act.hidden = !action || (action === "region" && app.tool === "region") || (action === "polygon" && ["polygon", "lasso", "brush"].includes(app.tool)) || action === app.tab;
    act.textContent = action ? words[action]! : "";
  };
  app.on(["labels", "classes", "preview", "rounds", "runs", "proposal", "result", "source", "tool", "tab"], draw);
  return bar;
}

export function statusbar(app: App): HTMLElement {
  const place = h("span", { class: "place" });
  const lonlat = h("span", { class: "place quiet" });
  const crs = h("span", { class: "quiet ellipsis crs" });
  const counts = h("span", { class: "counts", id: "counts", "aria-live": "off" });
  const zoom = h("span", { class: "quiet", "data-tip": "Screen px per image px" });
  const scale = h("div", { class: "scale", "aria-label": "Scale bar" }, h("span", {}), h("div", { class: "scale-line" }));
  const { map } = app.viewer;
  const ask = debounce(() => {
    const { pointer, source } = app;
    if (!pointer || source.kind !== "raster" || source.unit === "degree" || !source.crs) return;
    void api.lonlat(source.id, pointer[0], pointer[1]).then((at) => (lonlat.textContent = at ? lonLatText(at.lon, at.lat) : ""), () => (lonlat.textContent = ""));
  }, 90);
  map.on("pointermove", () => {
    if (!app.pointer) return;
    place.textContent = placeText(app.source, app.pointer);
    ask();
  });
  const measure = (): void => {
    if (!app.source) return;
    zoom.textContent = zoomText(app.viewer.resolution);
    const bar = scaleBar(metresPerPixel(app.source, app.viewer.centre()), app.viewer.resolution, 130);
    (scale.firstElementChild as HTMLElement).textContent = bar.text;
    (scale.lastElementChild as HTMLElement).style.width = `${bar.width.toFixed(1)}px`;
  };
  map.on("postrender", measure);
  app.on("source", () => {
    lonlat.textContent = "";
    place.textContent = "";
    crs.textContent = app.source.crs_name ?? "";
    crs.dataset["tip"] = app.source.crs_name ?? "";
    measure();
  });
  const draw = (): void => {
    const parts = app.classes.flatMap(({ name }) => {
      const found = app.settings.preview && !app.hidden.has(name) ? app.counts.get(name) : undefined;
      return found ? [h("span", { class: "count-in-view" }, chip(name), h("strong", {}, `${found.count.toLocaleString("en")}`), h("span", { class: "quiet" }, ` in view · ${(found.fraction * 100).toFixed(1)} % of it${found.truncated ? " · zoom in for outlines" : ""}`))] : [];
    });
    replace(counts, ...parts);
  };
  app.on(["counts", "classes", "source", "settings"], draw);
  return h("footer", { class: "statusbar" }, scale, place, lonlat, crs, h("span", { class: "grow" }), counts, zoom);
}

/** The whole image, small, with what is in view; a click or drag goes there. */
export function overview(app: App): HTMLElement {
  const picture = h("img", { alt: "", draggable: "false" });
  const frame = h("div", { class: "overview-frame" });
  const box = h("div", { class: "float overview", "aria-hidden": "true" }, h("div", { class: "overview-image" }, picture, frame));
  const inner = box.firstElementChild as HTMLElement;
  app.on("source", () => {
    const { width, height, id } = app.source;
    const scale = Math.min(132 / width, 104 / height);
    inner.style.width = `${Math.max(width * scale, 8)}px`;
    inner.style.height = `${Math.max(height * scale, 8)}px`;
    picture.src = `/tile/thumbnail/${encodeURIComponent(id)}.jpg`;
    draw();
  });
  const draw = (): void => {
    const view = app.source ? app.viewer.box() : null;
    if (!view) return;
    const { width, height } = app.source;
    frame.style.left = `${(100 * view[0]) / width}%`;
    frame.style.top = `${(100 * view[1]) / height}%`;
    frame.style.width = `${(100 * (view[2] - view[0])) / width}%`;
    frame.style.height = `${(100 * (view[3] - view[1])) / height}%`;
  };
  app.viewer.map.on("postrender", draw);
  const go = (event: PointerEvent): void => {
    const bounds = inner.getBoundingClientRect();
    app.viewer.view.setCenter([((event.clientX - bounds.left) / bounds.width) * app.source.width, (-(event.clientY - bounds.top) / bounds.height) * app.source.height]);
  };
  inner.addEventListener("pointerdown", (event) => {
    inner.setPointerCapture(event.pointerId);
    go(event);
  });
  inner.addEventListener("pointermove", (event) => inner.hasPointerCapture(event.pointerId) && go(event));
  return box;
}

/** Bars over the map: the proposal, the selection, "finish this region". */
export function bars(app: App, tools: Tools): HTMLElement {
  const proposal = h("div", { class: "float bar", hidden: true, id: "proposal-bar", role: "group", "aria-label": "Proposal" });
  const selection = h("div", { class: "float bar", hidden: true, id: "selection-bar", role: "group", "aria-label": "Selection" });
  const finish = h("div", { class: "float bar", hidden: true, id: "finish-bar", role: "group", "aria-label": "After a stroke" });
  app.on("proposal", () => {
    const now = app.proposal;
    proposal.hidden = !now;
    if (!now) return;
    const objects = now.features.filter(({ properties }) => properties.kind !== "region").length;
    replace(proposal, h("strong", {}, now.kind === "wand" ? "Proposed outline" : `Region with ${plural(objects, "object")}`),
      now.kind === "region" ? h("span", { class: "quiet" }, "click an object to leave it out") : null,
      button({ label: "Accept the proposal", text: "Accept", icon: "check", key: keyOf("accept"), class: "primary small", id: "accept", onclick: () => app.acceptProposal() }),
      button({ label: "Discard the proposal", text: "Discard", icon: "cross", key: keyOf("cancel"), class: "small", id: "discard", onclick: () => app.setProposal(null) }));
  });
  app.on(["selection", "labels", "classes"], () => {
    const chosen = app.selection();
    selection.hidden = chosen.length === 0 || app.tool !== "select";
    if (selection.hidden) return;
    const objects = chosen.filter(({ properties }) => properties.kind === "object");
    const names = new Set(objects.map(({ properties }) => properties.class));
    const what = chosen.length === 1 ? { region: "Region", object: "Object", ignore: "Ignored area", not: "“Not this”", point: "Point" }[chosen[0]!.properties.kind] : `${chosen.length} selected`;
    const relabel = h("select", { "aria-label": "Class of the selection", onchange: () => app.apply([{ op: "relabel", ids: objects.map(({ id }) => id), class: relabel.value }]) },
      names.size > 1 ? h("option", { value: "", selected: true, disabled: true }, "several classes") : null,
      ...app.classes.map(({ name }) => h("option", { value: name, selected: names.size === 1 && names.has(name) }, name)));
    replace(selection, h("strong", {}, what), objects.length ? relabel : null,
      objects.length > 1 ? button({ label: "Merge the selected objects", text: "Merge", icon: "merge", key: keyOf("merge"), class: "small", onclick: () => app.mergeSelected() }) : null,
      objects.length === 1 && chosen.length === 1 ? button({ label: "Split along a line", text: "Split", icon: "split", key: keyOf("tool:split"), class: "small", onclick: () => app.setTool("split") }) : null,
      button({ label: "Delete the selection", text: "Delete", icon: "trash", key: keyOf("delete"), class: "small", onclick: () => app.deleteSelected() }));
  });
  app.on(["labels", "tool", "proposal", "preview", "source"], () => {
    finish.hidden = !app.lastStroke || app.proposal !== null || app.preview.state === "empty" || app.viewer.selected.size > 0;
    if (finish.hidden) return;
    replace(finish, h("span", {}, "This mends the place. To teach everywhere:"),
      button({ label: "A window round the stroke, filled in by the preview", text: "Finish this region", icon: "finish", key: keyOf("finish"), class: "primary small", onclick: () => void tools.finish(app.lastStroke ?? app.viewer.centre()) }),
      button({ label: "Not now", icon: "cross", class: "small", onclick: () => {
        app.lastStroke = null;
        app.emit("labels");
      } }));
  });
  return h("div", { class: "bars" }, proposal, selection, finish);
}

/** The list of all keys, as a dialog. */
export function helpDialog(): HTMLDialogElement {
  const groups = ["Draw", "Edit", "Preview", "View", "Page"] as const;
  const rows = (group: (typeof groups)[number]): HTMLElement[] =>
    [...BINDINGS.filter((one) => one.group === group).map(({ keys, text }) => ({ keys: keys.map(keyCap), text })), ...OTHER_KEYS.filter((one) => one.group === group)].map(({ keys, text }) =>
      h("div", { class: "key-row" }, h("span", { class: "caps" }, ...keys.map((key) => h("kbd", {}, key))), h("span", {}, text)));
  const dialog = h("dialog", { class: "help", "aria-labelledby": "help-title" },
    h("header", {}, h("h2", { id: "help-title" }, "Keys"), button({ label: "Close", icon: "cross", onclick: () => dialog.close() })),
    h("p", { class: "lead" }, "Draw a region, outline everything in it, look at the preview, correct the worst place, repeat; then run the whole image. Every edit is saved at once, and undo knows no limit."),
    h("div", { class: "help-columns" }, ...groups.map((group) => h("section", {}, h("h3", {}, group), ...rows(group)))));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return dialog;
}
