/** The top bar with the state of the preview, and the guide below it. */
import type { App } from "../app.ts";
import { button, h, icon, replace } from "../dom.ts";
import { nextStep, STEPS, type Situation } from "../guide.ts";
import { keyOf } from "../keys.ts";

export function statusPill(app: App): HTMLElement {
  const pill = h("div", { class: "pill", id: "preview-status", role: "status", "aria-live": "polite" });
  const draw = (): void => {
    const { state, cells_done, cells_total, seconds, message } = app.preview;
    const waits = app.store.busy && state === "ready";
    const shown = waits ? "stale" : state;
    const text = {
      empty: message && message.length < 44 ? message : "No preview yet",
      computing: cells_total ? `Computing ${cells_done} of ${cells_total}` : "Computing",
      ready: seconds >= 0.05 ? `Up to date · ${seconds.toFixed(seconds < 10 ? 1 : 0)} s` : "Up to date",
      stale: "Stale",
      paused: message && message.length < 44 ? message : "Paused",
    }[shown];
    pill.dataset["state"] = shown;
    pill.dataset["tip"] =
      message ||
      {
        empty: "The preview starts at the first outlined object",
        computing: "The preview of what is in view is being computed; drawing never waits for it",
        ready: "The preview shows your newest labels",
        stale: "The preview shows older labels; a new one is on its way",
        paused: "The preview is paused",
      }[shown];
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
  const link = h(
    "div",
    { class: "pill", hidden: true },
    h("span", { class: "lamp" }),
    h("span", {}, "No connection to the server"),
  );
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
  return h(
    "header",
    { class: "topbar" },
    h("span", { class: "brand", "data-tip": `Fewscope ${app.info.version}` }, mark(), h("span", {}, "Fewscope")),
    name,
    saved,
    h("span", { class: "grow" }),
    link,
    statusPill(app),
    undo,
    redo,
    button({ label: "Dark or light", icon: "moon", key: keyOf("theme"), id: "theme", onclick: tools.theme }),
    button({ label: "All keys", icon: "help", key: keyOf("help"), id: "help", onclick: tools.help }),
  );
}

function mark(): SVGElement {
  const drawn = icon("region", 20);
  drawn.classList.add("mark");
  return drawn;
}

export function guide(app: App, go: (action: NonNullable<ReturnType<typeof nextStep>["action"]>) => void): HTMLElement {
  const steps = h("ol", { class: "steps" });
  const text = h("span", { class: "guide-text", id: "guide-text" });
  const act = h("button", {
    type: "button",
    class: "button small",
    id: "guide-action",
    "data-tip": "",
  });
  const bar = h("div", { class: "guide", role: "status", "aria-live": "polite" }, steps, text, act);
  const words: Record<string, string> = {
    class: "Name it",
    zoom: "Zoom in",
    lasso: "Lasso",
    not: "Not this",
    region: "Region",
    finish: "Finish a region",
    improve: "Open Improve",
    run: "Open Run",
    results: "Show result",
    accept: "Accept",
  };
  let action: ReturnType<typeof nextStep>["action"] = null;
  act.addEventListener("click", () => action && go(action));
  const draw = (): void => {
    const { regions, objects, outlined, points, strokes } = app.tally;
    if (app.result) app.seen.add(app.result);
    const last = app.runs.at(-1);
    const now: Situation = {
      classes: app.classes.length,
      regions,
      objects,
      outlined,
      points,
      strokes,
      patches: app.patches,
      map: app.source.kind === "raster",
      zoomedOut: app.zoomedOut,
      preview: app.preview.state,
      rounds: app.rounds.length,
      worse: app.worse,
      proposal: app.proposal?.kind ?? "none",
      run:
        !last || last.state === "cancelled"
          ? "none"
          : last.state === "done" && !app.seen.has(last.id)
            ? "new"
            : last.state,
      resultShown: app.result !== null,
    };
    const step = nextStep(now);
    action = step.action;
    replace(
      steps,
      ...STEPS.map((name, i) =>
        h(
          "li",
          {
            class: i + 1 === step.number ? "now" : i + 1 < step.number ? "past" : "",
            "aria-current": i + 1 === step.number ? "step" : null,
            "data-tip": name,
          },
          h("span", { class: "n" }, String(i + 1)),
          i + 1 === step.number ? h("span", {}, name) : null,
        ),
      ),
    );
    text.textContent = step.text;
    act.hidden =
      !action ||
      (action === "lasso" && ["polygon", "lasso", "brush", "wand", "point"].includes(app.tool)) ||
      action === app.tool ||
      action === app.tab;
    act.textContent = action ? words[action]! : "";
    act.dataset["tip"] = act.textContent;
  };
  app.on(
    ["labels", "classes", "preview", "rounds", "runs", "proposal", "result", "source", "tool", "tab", "view"],
    draw,
  );
  return bar;
}
