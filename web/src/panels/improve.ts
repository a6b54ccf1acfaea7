/** Panel "Improve": how good it is by round, finishing a region, what to label next. */
import { api } from "../api.ts";
import { words, type App } from "../app.ts";
import { roundsChart } from "../charts.ts";
import { button, h, icon, plural, replace, toast } from "../dom.ts";
import { keyOf } from "../keys.ts";
import type { Tools } from "../tools.ts";
import type { Round, Suggestion } from "../types.ts";
import { section, toggle } from "./fields.ts";

/** What a round found against what is drawn, one line for each class. */
function countsText(round: Round): string {
  return round.counts.map(({ class: name, drawn, found }) => `${name}: ${drawn} drawn, ${found} found`).join(" · ");
}

function clock(time: string | number): string {
  const date = typeof time === "number" ? new Date(time * 1000) : new Date(time);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

export function improvePanel(app: App, tools: Tools): HTMLElement {
  const rounds = h("div", { class: "rounds score-box" });
  const history = h("div", { class: "rounds" });
  const restore = async (number: number): Promise<void> => {
    await app.restoreRound(number);
    try {
      app.rounds = await api.rounds();
      app.emit("rounds");
    } catch {
      // the server tells of the new round when it answers again
    }
  };
  const drawRounds = (): void => {
    const all = app.rounds;
    if (!all.length) {
      replace(
        rounds,
        h(
          "p",
          { class: "quiet" },
          "From the second region on: each is left out in turn, predicted from the others, and compared with what you drew.",
        ),
      );
      replace(history, h("p", { class: "quiet" }, "No round yet."));
      return;
    }
    const last = all.findLast(({ state }) => state === "done") ?? all.at(-1)!;
    const scoring = all.at(-1)!.state === "scoring";
    const before = all.find(({ number }) => number === last.before);
    const change = last.iou !== null && before?.iou != null ? last.iou - before.iou : null;
    const head = h(
      "div",
      { class: "score" },
      h("span", { class: "score-number" }, last.iou === null ? "–" : last.iou.toFixed(2)),
      h(
        "span",
        { class: "score-words" },
        h("strong", {}, "held-out IoU"),
        h(
          "span",
          { class: "quiet" },
          scoring
            ? `scoring round ${all.at(-1)!.number}…`
            : last.iou === null
              ? "two regions with objects are needed"
              : `round ${last.number}, ${app.folders.length ? plural(last.n_regions, "patch", "patches") : plural(last.n_regions, "region")}`,
        ),
      ),
      change === null
        ? null
        : h(
            "span",
            { class: `change ${change < -0.005 ? "down" : change > 0.005 ? "up" : ""}` },
            `${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(2)}`,
          ),
    );
    const worse =
      last.worse && before
        ? h(
            "div",
            { class: "notice warn" },
            icon("warn", 16),
            h(
              "span",
              {},
              `Round ${last.number} is worse than round ${before.number} (${before.iou!.toFixed(2)} → ${last.iou!.toFixed(2)}). New labels may contradict older ones.`,
            ),
            h(
              "button",
              {
                type: "button",
                class: "button small",
                id: "undo-round",
                "data-tip": "The labels of that round again; undo takes it back",
                onclick: () => void restore(before.number),
              },
              `Back to round ${before.number}`,
            ),
          )
        : null;
    const table = h(
      "table",
      { class: "rounds-table" },
      h(
        "thead",
        {},
        h("tr", {}, ...["Round", "IoU", "Drawn", "Found", ""].map((name) => h("th", { scope: "col" }, name))),
      ),
      h(
        "tbody",
        {},
        ...[...all]
          .reverse()
          .slice(0, 8)
          .map((round) => {
            const drawn = round.counts.reduce((sum, one) => sum + one.drawn, 0);
            const found = round.counts.reduce((sum, one) => sum + one.found, 0);
            return h(
              "tr",
              { class: round.worse ? "worse" : "", "data-tip": `${clock(round.time)} ${countsText(round)}`.trim() },
              h("td", {}, `${round.number}`),
              h("td", {}, round.state === "scoring" ? "…" : round.iou === null ? "–" : round.iou.toFixed(3)),
              h("td", {}, round.counts.length ? drawn : "–"),
              h("td", {}, round.counts.length ? found : "–"),
              h(
                "td",
                { class: "actions" },
                round === last
                  ? null
                  : button({
                      label: `Back to the labels of round ${round.number}`,
                      icon: "undo",
                      class: "small",
                      onclick: () => void restore(round.number),
                    }),
              ),
            );
          }),
      ),
    );
    const filled = last.n_prefilled ?? 0;
    const flattered =
      filled && last.iou !== null
        ? h(
            "p",
            { class: "quiet" },
            `${filled} of ${last.n_regions} ${app.folders.length ? "patches" : "regions"} were filled in by the preview. Outlines that you left as they were agree with it by construction, so this figure is too high.`,
          )
        : null;
    replace(rounds, head, worse, flattered);
    replace(history, all.filter(({ iou }) => iou !== null).length > 1 ? roundsChart(all, 300, 120) : null, table);
  };
  app.on("rounds", drawRounds);

  const finish = button({
    label: "A square at the last label, or in the middle of the view, filled in by the preview",
    text: "Finish a region here",
    icon: "finish",
    key: keyOf("finish"),
    id: "finish-region",
    onclick: () => void tools.finish(app.lastStroke ?? app.viewer.centre()),
  });
  const gallery = h("div", { class: "gallery" });
  let shownFor = "";
  const suggest = async (): Promise<void> => {
    const source = app.source;
    replace(gallery, ...Array.from({ length: 8 }, () => h("div", { class: "window loading" })));
    try {
      const all = await api.suggest(source.id);
      if (source.id !== app.source.id) return;
      shownFor = `${source.id}`;
      replace(
        gallery,
        ...all.map(card),
        all.length
          ? null
          : h(
              "p",
              { class: "quiet" },
              app.preview.state === "empty"
                ? "Nothing to suggest yet: the gallery fills once there is a preview."
                : "There are labels near every window of this image. Correct what you see, or start the run.",
            ),
      );
    } catch (error) {
      replace(gallery, h("p", { class: "quiet" }, `No suggestions: ${words(error)}`));
    }
  };
  const card = (window: Suggestion, i: number): HTMLElement => {
    const why = window.why === "random" ? "taken at random" : "typical of ground without labels";
    return h(
      "button",
      {
        type: "button",
        class: "window",
        "aria-label": `Window ${i + 1}, ${why}: open it as a region`,
        "data-tip": `${why}: opens as a region filled in by the preview`,
        onclick: () => {
          const box: [number, number, number, number] = [window.x0, window.y0, window.x1, window.y1];
          app.viewer.fit(box, 60);
          void tools.finish([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], box);
        },
      },
      h("img", { src: window.image, alt: "", loading: "lazy" }),
      h("span", { class: "window-why" }, window.why),
    );
  };
  const clear = (): void => {
    shownFor = "";
    replace(
      gallery,
      h(
        "p",
        { class: "quiet" },
        "Eight windows with what the preview finds in them, the most typical first. Look where it fails. Click one: it opens as a region, filled in, for you to correct.",
      ),
    );
  };
  clear();
  app.on("source", () => {
    clear();
    if (app.tab === "improve" && app.preview.state !== "empty") void suggest();
  });
  // the window that was accepted is labelled now: eight others, once the preview has learned from it
  let again = false;
  app.on("accepted", () => (again = shownFor === app.source.id));
  app.on("preview", () => {
    if (!again || app.preview.state !== "ready" || app.store.busy) return;
    again = false;
    void suggest();
  });
  app.on("tab", () => {
    if (app.tab === "improve" && shownFor !== app.source.id && app.preview.state !== "empty") void suggest();
  });
  const unsure = toggle(
    "Show where the preview is unsure",
    keyOf("unsure"),
    () => app.settings.unsure,
    (on) => app.set({ unsure: on }),
    "improve-unsure",
  );
  app.on("settings", unsure.sync);
  const refresh = button({
    label: "Eight windows of the newest preview",
    text: "Show eight windows",
    icon: "refresh",
    key: keyOf("suggest"),
    id: "suggest",
    onclick: () => void suggest(),
  });
  document.addEventListener("fewscope-suggest", () => {
    if (app.preview.state === "empty")
      toast("The gallery fills once there is a preview: draw round a few objects first.");
    else if (shownFor === app.source.id) void suggest();
  });
  return h(
    "div",
    { class: "panel", id: "panel-improve", role: "tabpanel", "aria-labelledby": "tab-improve" },
    section("How good it is", rounds),
    section("Where next", gallery, refresh, unsure.element),
    section(
      "Correct here",
      h(
        "p",
        { class: "quiet" },
        "Single outlines and strokes correct their place. Finished regions improve the result everywhere.",
      ),
      finish,
    ),
    section("Rounds", history),
  );
}
