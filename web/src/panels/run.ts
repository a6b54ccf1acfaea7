/** Panel "Run": start the whole job, watch it, cancel it, open what it found. */
import { api } from "../api.ts";
import { words, type App } from "../app.ts";
import { button, h, icon, plural, replace, toast } from "../dom.ts";
import type { Run } from "../types.ts";
import { section } from "./fields.ts";

export function copyText(text: string): void {
  navigator.clipboard?.writeText(text).then(
    () => toast("Copied."),
    () => toast("The browser did not allow copying: select the text instead.", "error"),
  );
}

export function intervalText(interval: [number, number] | null): string {
  return interval
    ? `${Math.round(interval[0]).toLocaleString("en")} to ${Math.round(interval[1]).toLocaleString("en")}`
    : "";
}

function commandBlock(commands: string[]): HTMLElement {
  return h(
    "details",
    { class: "command" },
    h("summary", { "data-tip": "What a terminal would be given for the same result" }, "Command line"),
    h("pre", { tabindex: 0 }, commands.join("\n")),
    button({
      label: "Copy the command line",
      text: "Copy",
      icon: "copy",
      class: "small",
      onclick: () => copyText(commands.join("\n")),
    }),
  );
}

function card(app: App, run: Run): HTMLElement {
  const nameOf = (id: string): string => app.info.sources.find((source) => source.id === id)?.name ?? id;
  const fraction = run.total > 0 ? run.done / run.total : null;
  const states: Record<Run["state"], string> = {
    running: run.stage ?? "running",
    done: "finished",
    failed: "failed",
    cancelled: "cancelled",
  };
  const shown = app.result === run.id;
  return h(
    "article",
    { class: `run ${run.state}` },
    h(
      "header",
      {},
      h("strong", {}, `Run ${run.id}`),
      h("span", { class: `badge ${run.state}` }, run.state === "running" ? "running" : states[run.state]),
      run.state === "running"
        ? button({
            label: `Cancel run ${run.id}`,
            text: "Cancel",
            icon: "stop",
            class: "small end",
            onclick: () => void api.cancel(run.id).catch((error: unknown) => toast(words(error), "error")),
          })
        : null,
    ),
    run.state === "running"
      ? h(
          "div",
          { class: "progress-row" },
          h(
            "progress",
            fraction === null
              ? { "aria-label": "Progress" }
              : { value: String(fraction), max: "1", "aria-label": "Progress" },
          ),
          h(
            "span",
            { class: "quiet" },
            `${run.stage ?? "starting"}${run.total ? ` · ${run.done.toLocaleString("en")} of ${run.total.toLocaleString("en")}` : ""}`,
          ),
        )
      : null,
    run.message ? h("p", { class: run.state === "failed" ? "notice warn" : "quiet" }, run.message) : null,
    ...run.results.flatMap((result) => [
      h(
        "div",
        { class: "run-result" },
        h(
          "div",
          {},
          run.sources.length > 1 ? h("span", { class: "ellipsis quiet" }, nameOf(result.source)) : null,
          result.count === null
            ? null
            : h("span", { class: "count" }, result.count.toLocaleString("en"), h("span", { class: "quiet" }, " found")),
          result.interval
            ? h(
                "span",
                {
                  class: "quiet",
                  "data-tip": "Estimate of the true count, from how the patches were counted: 95 % interval",
                },
                `true count ${intervalText(result.interval)}`,
              )
            : null,
        ),
        result.report_url
          ? h(
              "a",
              {
                class: "button small",
                href: result.report_url,
                target: "_blank",
                rel: "noopener",
                "data-tip": "The report in a new tab",
              },
              icon("report", 14),
              h("span", {}, "Report"),
            )
          : null,
      ),
      ...result.warnings.map((warning) => h("p", { class: "notice warn" }, icon("warn", 16), h("span", {}, warning))),
    ]),
    run.state === "done"
      ? button({
          label: shown ? "Hide the result" : "Show the result on the map, with its table",
          text: shown ? "Hide result" : "Show result",
          icon: "layers",
          class: shown ? "small" : "small primary",
          onclick: () => {
            app.result = shown ? null : run.id;
            app.emit("result");
            if (!shown) app.setTab("results");
          },
        })
      : null,
    commandBlock(run.commands),
  );
}

export function runPanel(app: App): HTMLElement {
  const many = app.info.sources.length > 1;
  const boxes = app.info.sources.map((source) => {
    const box = h("input", { type: "checkbox", id: `run-${source.id}`, value: source.id });
    box.checked = true;
    return {
      box,
      element: h(
        "label",
        { class: "check", for: `run-${source.id}` },
        box,
        h("span", { class: "ellipsis" }, source.name),
      ),
    };
  });
  const here = h("input", { type: "radio", name: "where", id: "run-here", value: "here", onchange: () => sync() });
  here.checked = true;
  const cluster = h("input", {
    type: "radio",
    name: "where",
    id: "run-cluster",
    value: "cluster",
    onchange: () => sync(),
  });
  const address = h("input", {
    type: "text",
    placeholder: "auto, or ray://host:10001",
    "aria-label": "Ray address",
    "data-tip": "Where the Ray cluster is: auto for the one that this computer belongs to",
    disabled: true,
  });
  const workers = h("input", {
    type: "number",
    min: 1,
    max: 4096,
    placeholder: "as many as fit",
    id: "run-workers",
    "aria-label": "Number of workers",
    "data-tip": "Workers that share the run; empty: chosen by what is free",
  });
  const adapt = h(
    "select",
    { id: "run-adapt", "data-tip": "What is tried on your regions first; kept if held-out regions improve" },
    h("option", { value: "" }, "Scale and pixel classifier (seconds)"),
    h("option", { value: "120" }, "Fine-tuning, too (minutes)"),
    h("option", { value: "0" }, "Nothing: as the preview does"),
  );
  const sync = (): void => {
    address.disabled = !cluster.checked;
    if (cluster.checked) address.focus();
  };
  const start = button({
    label: "Start the whole run",
    text: many ? "Run these images" : "Run the whole image",
    icon: "play",
    class: "primary",
    id: "start-run",
    onclick: () => {
      const sources = boxes.filter(({ box }) => box.checked).map(({ box }) => box.value);
      if (!sources.length) return toast("Tick at least one image to run.");
      if (cluster.checked && !address.value.trim()) return address.focus();
      start.disabled = true;
      void api
        .start({
          sources,
          workers: workers.value ? Number(workers.value) : null,
          address: cluster.checked ? address.value.trim() : null,
          adapt_s: adapt.value === "" ? null : Number(adapt.value),
        })
        .then(async () => {
          app.runs = await api.runs();
          app.emit("runs");
        })
        .catch((error: unknown) => toast(words(error), "error"))
        .finally(() => (start.disabled = false));
    },
  });
  const ready = h("p", { class: "quiet" });
  const list = h("div", { class: "runs" });
  const draw = (): void => {
    const { regions, objects } = app.tally;
    const { patches } = app;
    const learned = [
      patches ? plural(patches, "labelled patch", "labelled patches") : "",
      regions || objects ? `${plural(regions, "region")} and ${plural(objects, "object")} of this image` : "",
    ].filter(Boolean);
    ready.textContent =
      regions === 0 && !patches
        ? "Draw at least one region with its objects first."
        : `With ${learned.join(", ")}.${app.store.area ? " Only the area is segmented." : ""} The run uses the full method, the preview a faster one: their outlines differ a little.`;
    start.disabled = regions === 0 && !patches && !many;
    replace(
      list,
      ...[...app.runs].reverse().map((run) => card(app, run)),
      app.runs.length ? null : h("p", { class: "quiet" }, "No run yet."),
    );
  };
  let signature = "";
  app.on(["runs", "result"], () => {
    const next = JSON.stringify([app.runs, app.result]);
    if (next === signature) return;
    signature = next;
    const open = [...list.querySelectorAll("details")].map((details) => details.open);
    draw();
    list.querySelectorAll("details").forEach((details, i) => (details.open = open[i] ?? false));
  });
  app.on(["labels", "source", "area"], draw);
  return h(
    "div",
    { class: "panel", id: "panel-run", role: "tabpanel", "aria-labelledby": "tab-run" },
    section(
      many ? "Run with these labels" : "Run the whole image",
      many ? h("div", { class: "checks" }, ...boxes.map(({ element }) => element)) : null,
      h(
        "div",
        { class: "field" },
        h(
          "label",
          { class: "check", for: "run-here", "data-tip": "The run uses this computer alone" },
          here,
          h("span", {}, "On this computer"),
        ),
        h(
          "label",
          {
            class: "check",
            for: "run-cluster",
            "data-tip": "The run is sent to a Ray cluster; files must be reachable there",
          },
          cluster,
          h("span", {}, "On a Ray cluster"),
        ),
        address,
      ),
      h("div", { class: "field row" }, h("label", { class: "grow" }, "Workers", workers)),
      h("div", { class: "field" }, h("label", { for: "run-adapt" }, "Adaptation"), adapt),
      ready,
      start,
    ),
    section("Runs", list),
  );
}
