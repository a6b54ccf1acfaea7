/** The working resolution: what suits the objects that were drawn, and the choice by hand. */
import { api } from "../api.ts";
import { words, type App } from "../app.ts";
import { button, h, replace, toast } from "../dom.ts";

async function choose(app: App, factor: number): Promise<void> {
  try {
    await app.setResolution(await api.chooseResolution(factor));
  } catch (error) {
    toast(words(error), "error");
    app.emit("resolution");
  }
}

/** What the page says of the resolution: that another one suits better, or that it has changed to it. */
export function resolutionBar(app: App): HTMLElement {
  const bar = h("div", {
    class: "float bar",
    hidden: true,
    id: "resolution-bar",
    role: "group",
    "aria-label": "Resolution",
  });
  app.on(["resolution", "proposal"], () => {
    const now = app.resolution;
    bar.hidden = !now?.text || app.proposal !== null;
    if (!now || bar.hidden) return;
    const at = (factor: number): string => now.values.find((one) => one.factor === factor)?.text ?? "";
    replace(
      bar,
      h("span", {}, now.text),
      button({
        label: now.is_kept
          ? `Preview and runs at ${at(now.to)} again`
          : `Preview and runs at ${at(now.to)}; your labels stay as they are`,
        text: now.is_kept ? `Back to ${at(now.to)}` : `Preview at ${at(now.to)}`,
        class: now.is_kept ? "small" : "primary small",
        id: "resolution-change",
        onclick: () => void choose(app, now.to),
      }),
      button({
        label: `Preview and runs stay at ${at(now.factor)}`,
        text: now.is_kept ? "OK" : `Keep ${at(now.factor)}`,
        class: "small",
        id: "resolution-keep",
        onclick: () => void choose(app, now.factor),
      }),
    );
  });
  return bar;
}

/** Chooses a resolution by hand; nothing where there is but one. */
export function resolutionField(app: App): HTMLElement {
  const select = h("select", {
    id: "resolution",
    "data-tip": "Side of a pixel for the preview and the runs: coarser for larger objects, finer for smaller ones",
    onchange: () => void choose(app, Number(select.value)),
  });
  const field = h("div", { class: "slider" }, h("label", { for: "resolution" }, "Resolution"), select);
  app.on("resolution", () => {
    const { values, factor } = app.resolution ?? { values: [], factor: 1 };
    field.hidden = values.length < 2;
    replace(
      select,
      ...values.map((one) => h("option", { value: String(one.factor), selected: one.factor === factor }, one.text)),
    );
    select.value = String(factor);
  });
  return field;
}
