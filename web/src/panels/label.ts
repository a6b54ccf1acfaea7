/** Panel "Label": sources, classes, how the preview is shown, the selection. */
import { thumbnailOf } from "../api.ts";
import type { App } from "../app.ts";
import { button, h, icon, plural, replace } from "../dom.ts";
import { keyOf } from "../keys.ts";
import type { SourceInfo } from "../types.ts";
import { section, slider, toggle } from "./fields.ts";
import { foldersSection } from "./folders.ts";
import { resolutionField } from "./resolution.ts";

const STATES: Record<string, string> = {
  new: "nothing drawn yet",
  empty: "not begun",
  labelled: "labelled",
  computing: "computing",
  ready: "previewed",
  stale: "to be computed",
  paused: "paused",
  running: "running",
  done: "segmented",
  failed: "failed",
};

/** What a card says of a source: whether it is the current one, what is drawn, and its state. */
function sourceWords(app: App, source: SourceInfo): [current: boolean, drawn: string, state: string] {
  const current = source.id === app.source.id;
  const count = current ? app.tally : { regions: source.n_regions, objects: source.n_objects };
  const running = app.runs.some((run) => run.state === "running" && run.sources.includes(source.id));
  const finished = app.runs.findLast((run) =>
    run.results.some((result) => result.source === source.id && result.count !== null),
  );
  const found = finished?.results.find((result) => result.source === source.id)?.count ?? null;
  const preview = app.previewOf(source.id).state;
  const state = running
    ? "running"
    : found !== null
      ? `${found.toLocaleString("en")} found`
      : preview === "ready" || preview === "computing"
        ? STATES[preview]!
        : (STATES[source.state] ?? source.state);
  return [
    current,
    count.regions || count.objects ? `${plural(count.regions, "region")}, ${plural(count.objects, "object")}` : "",
    state,
  ];
}

function sourceCard(app: App, source: SourceInfo): HTMLElement {
  const [current, drawn, word] = sourceWords(app, source);
  return h(
    "button",
    {
      type: "button",
      class: `source${current ? " current" : ""}`,
      "aria-current": current ? "true" : null,
      "aria-label": `${source.name}: ${word}`,
      "data-tip": source.name,
      onclick: () => void app.goTo(source.id),
    },
    h("img", { src: thumbnailOf(source), alt: "", loading: "lazy" }),
    h(
      "span",
      { class: "source-words" },
      h("span", { class: "source-name" }, source.name),
      h("span", { class: "quiet" }, `${source.width.toLocaleString("en")} × ${source.height.toLocaleString("en")} px`),
      h("span", { class: "quiet" }, drawn && word !== STATES["new"] ? `${drawn} · ${word}` : drawn || word),
    ),
  );
}

export function labelPanel(app: App): HTMLElement {
  const sources = h("div", { class: "sources" });
  const cards = new Map<string, { words: string; element: HTMLElement }>();
  const drawSources = (): void => {
    let changed = cards.size !== app.info.sources.length;
    for (const source of app.info.sources) {
      const words = JSON.stringify(sourceWords(app, source));
      if (cards.get(source.id)?.words === words) continue;
      cards.set(source.id, { words, element: sourceCard(app, source) });
      changed = true;
    }
    if (changed) replace(sources, ...app.info.sources.map(({ id }) => cards.get(id)!.element));
  };
  app.on(["source", "sources", "runs", "labels", "preview"], drawSources);

  const notes = h("div", { class: "notes" });
  app.on(["source", "sources"], () => {
    notes.hidden = !app.source.notes.length;
    replace(
      notes,
      ...app.source.notes.map((note) => h("p", { class: "notice" }, icon("info", 16), h("span", {}, note))),
    );
  });

  const classes = h("div", { class: "classes", role: "radiogroup", "aria-label": "Class to draw" });
  const drawClasses = (): void => {
    const { byClass } = app.tally;
    const rows = app.classes.map(({ name, colour }, i) => {
      const active = name === app.activeClass;
      const off = app.hidden.has(name);
      const swatch = h("input", {
        type: "color",
        value: colour,
        class: "swatch",
        "aria-label": `Colour of ${name}`,
        "data-tip": `Colour of ${name}`,
        onchange: () => app.apply([{ op: "class", name, colour: swatch.value, rename_from: null }]),
      });
      const drawn = byClass.get(name) ?? 0;
      const choose = h(
        "button",
        {
          type: "button",
          class: "class-name",
          role: "radio",
          "aria-checked": active ? "true" : "false",
          "aria-label": `Class ${name}, ${drawn} drawn`,
          "data-tip": `Draw ${name}; relabels the selection`,
          "data-key": i < 9 ? String(i + 1) : null,
          onclick: () => app.chooseClass(name),
          ondblclick: () => rename(row, name, colour),
        },
        h("span", { class: "ellipsis" }, name),
      );
      const row = h(
        "div",
        { class: `class-row${active ? " active" : ""}${off ? " off" : ""}` },
        swatch,
        choose,
        h("span", { class: "quiet number", "data-tip": "Drawn by you" }, drawn),
        i < 9 ? h("kbd", {}, i + 1) : null,
        button({
          label: `Rename ${name}`,
          icon: "brush",
          class: "small on-hover",
          onclick: () => rename(row, name, colour),
        }),
        button({
          label: off ? `Show ${name}` : `Hide ${name}`,
          icon: off ? "eye-off" : "eye",
          class: "small",
          onclick: () => app.toggleClass(name),
        }),
      );
      return row;
    });
    replace(
      classes,
      ...rows,
      rows.length ? null : h("p", { class: "quiet" }, "No class yet: name what you are looking for."),
    );
  };
  const rename = (row: HTMLElement, name: string, colour: string): void => {
    const input = h("input", { type: "text", value: name, maxlength: 60, "aria-label": `New name of ${name}` });
    const form = h(
      "form",
      {
        class: "inline",
        onsubmit: (event: SubmitEvent) => {
          event.preventDefault();
          const next = input.value.trim();
          if (next && next !== name) app.apply([{ op: "class", name: next, colour, rename_from: name }]);
          else drawClasses();
        },
      },
      input,
      h("button", { type: "submit", class: "button small" }, "Rename"),
    );
    input.addEventListener("keydown", (event) => event.key === "Escape" && drawClasses());
    replace(row, form);
    input.focus();
    input.select();
  };
  app.on(["classes", "labels"], drawClasses);
  const name = h("input", {
    type: "text",
    id: "new-class",
    placeholder: "New class, e.g. Nucleus",
    "aria-label": "Name of a new class",
    "data-tip": "Name what you look for, then press Enter",
    maxlength: 60,
  });
  const add = h(
    "form",
    {
      class: "inline",
      onsubmit: (event: SubmitEvent) => {
        event.preventDefault();
        const text = name.value.trim();
        if (!text) return name.focus();
        app.addClass(text);
        name.value = "";
        name.blur(); // the keys of the tools are the page's again
        if (!app.tally.objects) app.setTool("lasso");
      },
    },
    name,
    h(
      "button",
      {
        type: "submit",
        class: "button small",
        "aria-label": "Add this class",
        "data-tip": "Add this class",
        "data-key": "Enter",
      },
      icon("plus", 14),
      h("span", {}, "Add"),
    ),
  );

  const opacity = slider({
    label: "Opacity",
    min: 0,
    max: 1,
    step: 0.01,
    value: app.settings.opacity,
    id: "opacity",
    text: (value) => `${Math.round(value * 100)} %`,
    oninput: (value) => app.set({ opacity: value }),
  });
  const threshold = slider({
    label: "Threshold",
    key: `${keyOf("lower")} ${keyOf("higher")}`,
    min: 0.02,
    max: 0.98,
    step: 0.01,
    value: app.settings.threshold,
    id: "threshold",
    text: (value) => value.toFixed(2),
    oninput: (value) => app.set({ threshold: value }),
  });
  const toggles = [
    toggle(
      "Preview",
      keyOf("preview"),
      () => app.settings.preview,
      (on) => app.set({ preview: on }),
      "show-preview",
    ),
    toggle(
      "Outlines of what was found",
      keyOf("outlines"),
      () => app.settings.outlines,
      (on) => app.set({ outlines: on }),
      "show-outlines",
    ),
    toggle(
      "Probability instead of area",
      "",
      () => app.settings.heat,
      (on) => app.set({ heat: on }),
      "show-heat",
    ),
    toggle(
      "Where the preview is unsure",
      keyOf("unsure"),
      () => app.settings.unsure,
      (on) => app.set({ unsure: on }),
      "show-unsure",
    ),
    toggle(
      "Your labels",
      keyOf("labels"),
      () => app.settings.labels,
      (on) => app.set({ labels: on }),
      "show-labels",
    ),
  ];
  app.on("settings", () => {
    opacity.set(app.settings.opacity);
    threshold.set(app.settings.threshold);
    toggles.forEach(({ sync }) => sync());
  });
  const many = app.info.sources.length > 1;
  return h(
    "div",
    { class: "panel", id: "panel-label", role: "tabpanel", "aria-labelledby": "tab-label" },
    section(many ? `Images (${app.info.sources.length})` : "Image", sources, notes),
    section("Classes", classes, add),
    foldersSection(app),
    section(
      "What is shown",
      opacity.element,
      threshold.element,
      resolutionField(app),
      h("div", { class: "toggles" }, ...toggles.map(({ element }) => element)),
      app.webgl
        ? null
        : h(
            "p",
            { class: "notice" },
            icon("warn", 16),
            h("span", {}, "This browser has no WebGL: the preview still works, but the threshold takes a moment."),
          ),
    ),
  );
}
