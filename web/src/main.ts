/** Puts the page together. */
import "ol/ol.css";
import "./style.css";
import { Answers } from "./answers.ts";
import { api, listen } from "./api.ts";
import { App, words, type Tab } from "./app.ts";
import { button, h, installTooltips, replace, throttle, toast } from "./dom.ts";
import { keyOf } from "./keys.ts";
import { installKeys } from "./commands.ts";
import { hasWebGL } from "./layers.ts";
import { bars } from "./panels/bars.ts";
import { helpDialog } from "./panels/help.ts";
import { improvePanel } from "./panels/improve.ts";
import { labelPanel } from "./panels/label.ts";
import { Results } from "./panels/results.ts";
import { runPanel } from "./panels/run.ts";
import { overview, statusbar } from "./panels/statusbar.ts";
import { toolbar, toolOptions } from "./panels/toolbar.ts";
import { guide, topbar } from "./panels/topbar.ts";
import { ObjectCard } from "./popup.ts";
import { Tools } from "./tools.ts";
import type { PreviewStatus, Run, ServerEvent } from "./types.ts";
import { Viewer } from "./viewer.ts";

const TABS: { tab: Tab; text: string }[] = [
  { tab: "label", text: "Label" },
  { tab: "improve", text: "Improve" },
  { tab: "run", text: "Run" },
  { tab: "results", text: "Results" },
];

function applyTheme(app: App): void {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.documentElement.dataset["theme"] = app.settings.theme === "system" ? system : app.settings.theme;
}

async function start(): Promise<void> {
  const mapElement = h("div", {
    class: "map",
    tabindex: 0,
    role: "application",
    "aria-label": "Image. Arrow keys move it, plus and minus zoom; press ? for all keys.",
  });
  const main = document.querySelector("#app")!;
  const info = await api.info();
  const viewer = new Viewer(mapElement);
  const app = new App(viewer, hasWebGL());
  app.info = info;
  app.source = info.sources[0]!;
  app.folders = info.folders;
  applyTheme(app);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => applyTheme(app));

  const answers = new Answers(app);
  const tools = new Tools(app, answers);
  const card = new ObjectCard(app, tools);
  const results = new Results(app);
  const help = helpDialog();
  const theme = (): void => {
    app.set({ theme: document.documentElement.dataset["theme"] === "dark" ? "light" : "dark" });
    applyTheme(app);
  };
  const step = (action: string): void => {
    if (action === "class") {
      app.setTab("label");
      document.getElementById("new-class")?.focus();
    } else if (action === "lasso" || action === "not" || action === "region") app.setTool(action);
    else if (action === "zoom") viewer.toScale((app.source.kind === "slide" ? 0.5 : 1) * app.source.work_scale);
    else if (action === "finish") void tools.finish(app.lastStroke ?? viewer.centre());
    else if (action === "accept") app.acceptProposal();
    else if (action === "results") {
      const done = app.runs.findLast(({ state }) => state === "done");
      app.result ??= done?.id ?? null;
      app.emit("result");
      app.setTab("results");
    } else app.setTab(action as Tab);
  };

  const panels: Record<Tab, HTMLElement> = {
    label: labelPanel(app),
    improve: improvePanel(app, tools),
    run: runPanel(app),
    results: results.panel,
  };
  const tabs = new Map(
    TABS.map(({ tab, text }) => [
      tab,
      h(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${tab}`,
          "aria-controls": `panel-${tab}`,
          "data-tip": text,
          "data-key": keyOf(`tab-${tab}`),
          onclick: () => app.setTab(tab),
        },
        text,
      ),
    ]),
  );
  const tablist = h("div", { class: "tabs", role: "tablist", "aria-label": "Panels" }, ...tabs.values());
  tablist.addEventListener("keydown", (event) => {
    const move = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const now = TABS.findIndex(({ tab }) => tab === app.tab);
    app.setTab(TABS[(now + move + TABS.length) % TABS.length]!.tab);
    tabs.get(app.tab)!.focus();
  });
  app.on("tab", () => {
    for (const { tab } of TABS) {
      panels[tab].hidden = tab !== app.tab;
      tabs.get(tab)!.setAttribute("aria-selected", tab === app.tab ? "true" : "false");
      tabs.get(tab)!.tabIndex = tab === app.tab ? 0 : -1;
    }
  });

  const zoomBar = h(
    "div",
    { class: "float zoom-bar" },
    button({ label: "Zoom in", icon: "plus", key: keyOf("zoom-in"), onclick: () => viewer.zoom(2) }),
    button({ label: "Zoom out", icon: "minus", key: keyOf("zoom-out"), onclick: () => viewer.zoom(0.5) }),
    button({ label: "The whole image", icon: "fit", key: keyOf("fit"), onclick: () => viewer.fit() }),
  );
  replace(
    main,
    topbar(app, { help: () => help.showModal(), theme }),
    guide(app, step),
    h(
      "div",
      { class: "body" },
      toolbar(app),
      h(
        "main",
        { class: "stage" },
        h("div", { class: "map-box" }, mapElement, toolOptions(app), zoomBar, overview(app), bars(app, tools)),
        results.drawer,
      ),
      h("aside", { class: "side" }, tablist, ...Object.values(panels)),
    ),
    statusbar(app),
  );
  document.body.append(help);
  installTooltips();
  new ResizeObserver(() => viewer.map.updateSize()).observe(mapElement);

  viewer.map.on("click", (event) => tools.click(event));
  let wasOut = true;
  viewer.map.on("moveend", () => {
    if (wasOut === app.zoomedOut) return;
    wasOut = app.zoomedOut;
    app.emit("view");
  });
  tools.onObject = (feature, at) => card.show(feature, at);
  tools.onMapClick = (at) => {
    card.close();
    void results.at(at);
  };

  viewer.map.updateSize();
  app.emit("classes");
  await app.open(app.source);
  app.emit("settings");
  app.setTool(app.tally.regions || app.tally.objects || app.patches ? "select" : "lasso");
  info.notes.forEach((note) => toast(note, "error"));
  app.setTab("label");
  app.emit("rounds");
  let first = true;
  const loadRuns = throttle(
    () =>
      void api.runs().then(
        (runs) => {
          if (first) for (const { id, state } of runs) if (state === "done") app.seen.add(id);
          first = false;
          app.runs = runs;
          app.emit("runs");
        },
        () => undefined,
      ),
    500,
  );
  app.emit("runs");
  const askResolution = (): void =>
    void api
      .resolution()
      .then((now) => app.setResolution(now))
      .catch(() => undefined);
  const askFolders = (): void =>
    void api.folders().then(
      (folders) => app.setFolders(folders),
      () => undefined,
    );
  const askRounds = (): void =>
    void api.rounds().then(
      (rounds) => {
        const before = app.worse;
        const isFirst = !app.rounds.length;
        app.rounds = rounds;
        app.emit("rounds");
        if (app.worse && !before && !isFirst)
          toast("This round is worse than the one before.", "error", {
            text: "Look",
            run: () => app.setTab("improve"),
          });
      },
      () => undefined,
    );

  let links = 0;
  listen(
    (event) => onEvent(event),
    (up) => {
      if (up !== app.linked) {
        app.linked = up;
        app.emit("link");
      }
      if (up) {
        // also at first: nothing is told of what happens before the link is up
        if (links++) void app.catchUp(Infinity).catch(() => undefined);
        void app.askPreview();
        askResolution();
        askFolders();
        askRounds();
        loadRuns();
      }
    },
  );

  function onEvent(event: ServerEvent): void {
    const here = event.source === undefined || event.source === app.source.id;
    switch (event.type) {
      case "preview":
        if (event.source) app.setPreview(event.source, event as unknown as PreviewStatus);
        break;
      case "folders":
        askFolders();
        break;
      case "resolution":
        askResolution();
        break;
      case "labels":
      case "classes":
        if (typeof event["error"] === "string") toast(event["error"], "error");
        else if (here)
          void app.catchUp(typeof event["revision"] === "number" ? event["revision"] : Infinity).catch(() => undefined);
        else
          void api.info().then(
            (fresh) => {
              app.info = fresh;
              app.emit("sources");
            },
            () => undefined,
          );
        break;
      case "round":
        askRounds();
        break;
      case "run": {
        const known = app.runs.find(({ id }) => id === (event["id"] ?? event["run"]));
        const state = event["state"] as Run["state"] | undefined;
        if (known && state === "done" && known.state === "running")
          toast(`Run ${known.id} is finished.`, "info", {
            text: "Show",
            run: () => {
              app.result = known.id;
              app.emit("result");
              app.setTab("results");
            },
          });
        loadRuns();
        break;
      }
      default:
        break;
    }
  }

  installKeys({ app, tools, answers, card, help, theme, mapElement });
  window.addEventListener("beforeunload", (event) => {
    if (app.store.busy) event.preventDefault();
  });
  // for scripts that drive the page: where a place of the image is on the screen, and what is proposed
  Object.assign(window, {
    fewscope: {
      screen: (x: number, y: number) => {
        const pixel = viewer.map.getPixelFromCoordinate([x, -y]) ?? [0, 0];
        const box = mapElement.getBoundingClientRect();
        return [pixel[0]! + box.left, pixel[1]! + box.top];
      },
      fit: (x0: number, y0: number, x1: number, y1: number) => viewer.fit([x0, y0, x1, y1]),
      proposal: () => app.proposal?.features ?? [],
    },
  });
  document.documentElement.dataset["ready"] = "";
}

start().catch((error: unknown) => {
  replace(
    document.querySelector("#app")!,
    h(
      "div",
      { class: "fatal" },
      h("h1", {}, "Fewscope cannot show its page"),
      h("p", {}, words(error)),
      h("p", { class: "quiet" }, "Open the address that the terminal printed: its token lets this browser in."),
    ),
  );
});
