/** Panel and drawer "Results": instances as tiles, histogram with a brush, table linked to the map, export. */
import OlFeature from "ol/Feature.js";
import OlPoint from "ol/geom/Point.js";
import TileLayer from "ol/layer/Tile.js";
import { api } from "../api.ts";
import { words, type App } from "../app.ts";
import { histogramChart } from "../charts.ts";
import { button, debounce, h, icon, plural, replace, toast } from "../dom.ts";
import { flip } from "../frame.ts";
import type { Cell, Run, Table, XY } from "../types.ts";
import { areaOf, cellText, heading, nameOf, PLACE, record } from "../table.ts";
import { intervalText } from "./run.ts";
import { section, slider } from "./fields.ts";

const PAGE = 100;

export class Results {
  readonly panel: HTMLElement;
  readonly drawer: HTMLElement;
  private readonly app: App;
  private readonly layer = new TileLayer({ zIndex: 15, visible: false, opacity: 0.65 });
  private filters: Record<string, string | number | null> = {};
  private sort = "";
  private descending = false;
  private offset = 0;
  private column = "";
  private table: Table | null = null;
  private chosen: Cell = null;
  private readonly rows = h("div", {
    class: "table-wrap",
    tabindex: 0,
    role: "region",
    "aria-label": "Table of instances",
  });
  private readonly chart = h("div", { class: "histogram-box" });
  private readonly total = h("span", { class: "quiet" });
  private readonly detail = h("div", { class: "detail" });
  private readonly summary = h("div", { class: "rounds" });
  private readonly inputs = new Map<string, HTMLInputElement | HTMLSelectElement>();
  private key = "";
  private painted = "";

  constructor(app: App) {
    this.app = app;
    app.viewer.map.addLayer(this.layer);
    const number = (name: string, label: string, step: string): HTMLElement => {
      const input = h("input", {
        type: "number",
        step,
        min: 0,
        "aria-label": label,
        "data-tip": label,
        placeholder: name.startsWith("min") ? "from" : "to",
        oninput: () => this.filter(name, input.value === "" ? null : Number(input.value)),
      });
      this.inputs.set(name, input);
      return input;
    };
    const classes = h("select", {
      "aria-label": "Class",
      "data-tip": "Only this class",
      onchange: () => this.filter("class", classes.value || null),
    });
    this.inputs.set("class", classes);
    const opacity = slider({
      label: "Opacity",
      min: 0,
      max: 1,
      step: 0.01,
      value: 0.65,
      id: "result-opacity",
      text: (value) => `${Math.round(value * 100)} %`,
      oninput: (value) => this.layer.setOpacity(value),
    });
    this.panel = h(
      "div",
      { class: "panel", id: "panel-results", role: "tabpanel", "aria-labelledby": "tab-results" },
      section("Result", this.summary),
      section(
        "Filter",
        h("div", { class: "field" }, h("label", {}, "Class", classes)),
        h(
          "div",
          { class: "field" },
          h("span", {}, "Area"),
          h(
            "div",
            { class: "pair" },
            number("min_area", "Smallest area", "any"),
            number("max_area", "Largest area", "any"),
          ),
        ),
        h(
          "div",
          { class: "field" },
          h("span", {}, "Probability"),
          h(
            "div",
            { class: "pair" },
            number("min_probability", "Lowest probability", "0.01"),
            number("max_probability", "Highest probability", "0.01"),
          ),
        ),
        button({
          label: "Clear all filters",
          text: "Clear filters",
          icon: "cross",
          class: "small",
          onclick: () => this.clearFilters(),
        }),
      ),
      section("Show", opacity.element),
      section("Object", this.detail),
    );
    this.drawer = h(
      "section",
      { class: "drawer", hidden: true, "aria-label": "Instances" },
      h(
        "header",
        {},
        h("strong", {}, "Instances"),
        this.total,
        h("span", { class: "grow" }),
        button({
          label: "Export the filtered instances as GeoJSON",
          text: "GeoJSON",
          icon: "download",
          class: "small",
          onclick: () => this.export("geojson"),
        }),
        button({
          label: "Export the filtered instances as CSV",
          text: "CSV",
          icon: "download",
          class: "small",
          onclick: () => this.export("csv"),
        }),
        button({
          label: "Close the result",
          icon: "cross",
          class: "small",
          onclick: () => {
            app.result = null;
            app.emit("result");
          },
        }),
      ),
      h("div", { class: "drawer-body" }, this.chart, this.rows),
    );
    app.on(["result", "source", "runs"], () => this.match());
    app.on("classes", () => {
      this.fillClasses();
      const colours = this.colours();
      if (this.run && colours !== this.painted) this.paint();
    });
    this.match();
  }

  private get run(): Run | null {
    const run = this.app.runs.find(({ id }) => id === this.app.result);
    return run && run.sources.includes(this.app.source.id) ? run : null;
  }

  private get values(): Record<string, string | number | null> {
    return { source: this.app.source.id, ...this.filters };
  }

  /** Follows which run of which source is shown. */
  private match(): void {
    const { app, run } = this;
    const key = run ? `${run.id}|${app.source.id}` : "";
    if (!run) {
      if (this.key) app.set({ preview: true });
      this.key = "";
      this.layer.setVisible(false);
      this.layer.setSource(null);
      this.drawer.hidden = true;
      app.viewer.marks.clear();
      const done = app.runs.filter(({ state, sources }) => state === "done" && sources.includes(app.source.id)).at(-1);
      replace(
        this.summary,
        h(
          "p",
          { class: "quiet" },
          done
            ? `Run ${done.id} of this image is finished.`
            : "A finished run appears here: as a layer, with a table to sort and filter.",
        ),
        done
          ? button({
              label: `Show the result of run ${done.id}`,
              text: "Show result",
              icon: "layers",
              class: "primary",
              onclick: () => {
                app.result = done.id;
                app.emit("result");
              },
            })
          : button({ label: "Go to the panel Run", text: "Go to Run", icon: "play", onclick: () => app.setTab("run") }),
      );
      replace(this.detail, h("p", { class: "quiet" }, "Click an object on the map, or a row of the table."));
      return;
    }
    if (key === this.key) return;
    this.key = key;
    this.chosen = null;
    this.drawer.hidden = false;
    this.clearFilters();
    const result = run.results.find(({ source }) => source === app.source.id);
    replace(
      this.summary,
      h(
        "div",
        { class: "score" },
        h("span", { class: "score-number" }, (result?.count ?? run.count ?? 0).toLocaleString("en")),
        h(
          "span",
          { class: "score-words" },
          h("strong", {}, "found"),
          h(
            "span",
            { class: "quiet" },
            result?.interval ? `true count ${intervalText(result.interval)}` : `run ${run.id}`,
          ),
        ),
      ),
      result?.report_url
        ? h(
            "a",
            {
              class: "button",
              href: result.report_url,
              target: "_blank",
              rel: "noopener",
              "data-tip": "The report in a new tab",
            },
            icon("report"),
            h("span", {}, "Open the report"),
          )
        : null,
    );
    this.layer.setVisible(true);
    app.set({ preview: false });
    app.viewer.map.updateSize();
  }

  private fillClasses(): void {
    const select = this.inputs.get("class") as HTMLSelectElement;
    const now = select.value;
    replace(
      select,
      h("option", { value: "" }, "All classes"),
      ...this.app.classes.map(({ name }) => h("option", { value: name }, name)),
    );
    select.value = now;
  }

  private filter(name: string, value: string | number | null): void {
    this.filters[name] = value;
    this.offset = 0;
    this.later();
  }

  private clearFilters(): void {
    this.filters = {};
    this.inputs.forEach((input) => (input.value = ""));
    this.offset = 0;
    this.fillClasses();
    this.later();
  }

  private readonly later = debounce(() => void this.load(), 120);

  private async load(): Promise<void> {
    const { run } = this;
    if (!run) return;
    this.paint();
    try {
      const table = await api.table(run.id, {
        ...this.values,
        sort: this.sort,
        descending: this.sort ? this.descending : null,
        offset: this.offset,
        limit: PAGE,
      });
      this.table = table;
      const names = table.columns.map(nameOf);
      if (!this.column) this.column = areaOf(names) ?? names[0] ?? "";
      this.draw();
      const histogram = this.column
        ? await api.histogram(run.id, { ...this.values, column: this.column, bins: 40 })
        : null;
      const numeric = names.filter(
        (name) =>
          table.rows.some((row) => typeof record(row, table.columns)[name] === "number") &&
          !["id", "x", "y", ...PLACE].includes(name),
      );
      const choice = h(
        "select",
        {
          "aria-label": "Column of the histogram",
          "data-tip": "What the histogram shows",
          onchange: () => {
            this.column = choice.value;
            this.later();
          },
        },
        ...numeric.map((name) => h("option", { value: name, selected: name === this.column }, heading(name))),
      );
      const kind = this.column === areaOf(names) ? "area" : this.column === "mean_probability" ? "probability" : null;
      replace(
        this.chart,
        h("div", { class: "histogram-head" }, choice, h("span", { class: "quiet" }, kind ? "drag to filter" : "")),
        histogram && histogram.counts.length
          ? histogramChart(histogram, {
              width: 330,
              height: 150,
              label: `Histogram of ${heading(this.column)}`,
              range: kind
                ? [(this.filters[`min_${kind}`] as number) ?? null, (this.filters[`max_${kind}`] as number) ?? null]
                : [null, null],
              onBrush: (range) => kind && this.brush(kind, range),
            })
          : h("p", { class: "quiet" }, "Nothing passes these filters."),
      );
    } catch (error) {
      replace(this.rows, h("p", { class: "notice warn" }, words(error)));
    }
  }

  /** The colours of the classes; they are part of the address of a tile, which the browser keeps. */
  private colours(): string {
    return this.app.classes.map(({ colour }) => colour.replace("#", "")).join("");
  }

  /** Shows the tiles of what passes the filters, in the colours that the classes have now. */
  private paint(): void {
    const { run, app } = this;
    if (!run) return;
    this.painted = this.colours();
    const search = new URLSearchParams({ v: app.info.start, paint: "1", colours: this.painted });
    for (const [name, value] of Object.entries(this.filters)) if (value !== null) search.set(name, String(value));
    const path = `/tile/instances/${encodeURIComponent(run.id)}/${encodeURIComponent(app.source.id)}`;
    this.layer.setSource(app.viewer.tiles(path, "png", `?${search}`));
  }

  private brush(kind: string, range: [number, number] | null): void {
    for (const [i, end] of ["min", "max"].entries()) {
      const name = `${end}_${kind}`;
      const value = range ? Number(range[i]!.toPrecision(4)) : null;
      this.filters[name] = value;
      const input = this.inputs.get(name);
      if (input) input.value = value === null ? "" : String(value);
    }
    this.offset = 0;
    this.later();
  }

  private draw(): void {
    const { table } = this;
    if (!table) return;
    const filtered = Object.values(this.filters).some((value) => value !== null);
    this.total.textContent = `${plural(table.total, "instance")}${filtered ? " pass the filters" : ""}`;
    const columns = table.columns.map(nameOf);
    const head = (): HTMLElement =>
      h(
        "tr",
        {},
        ...columns.map((name) =>
          h(
            "th",
            {
              scope: "col",
              class: numeric.has(name) ? "number" : "",
              "aria-sort": name === this.sort ? (this.descending ? "descending" : "ascending") : null,
            },
            h(
              "button",
              {
                type: "button",
                class: "sort",
                "data-tip": `Sort by ${heading(name)}`,
                onclick: () => {
                  this.descending = this.sort === name ? !this.descending : true;
                  this.sort = name;
                  this.offset = 0;
                  void this.load();
                },
              },
              heading(name),
              name === this.sort ? (this.descending ? " ↓" : " ↑") : "",
            ),
          ),
        ),
      );
    const numeric = new Set(
      columns.filter((name) => table.rows.some((row) => typeof record(row, table.columns)[name] === "number")),
    );
    const body = table.rows.map((row) => {
      const values = record(row, table.columns);
      const id = values["id"] ?? null;
      const line = h(
        "tr",
        {
          tabindex: 0,
          class: id !== null && id === this.chosen ? "chosen" : "",
          onclick: () => this.choose(values, true),
          onkeydown: (event: KeyboardEvent) => {
            if (event.key === "Enter") this.choose(values, true);
            const other =
              event.key === "ArrowDown"
                ? line.nextElementSibling
                : event.key === "ArrowUp"
                  ? line.previousElementSibling
                  : null;
            if (other instanceof HTMLElement) {
              event.preventDefault();
              other.focus();
            }
          },
        },
        ...columns.map((name) =>
          h(
            "td",
            { class: typeof values[name] === "number" ? "number" : "" },
            cellText(values[name] ?? null, name, this.app.source.unit),
          ),
        ),
      );
      line.dataset["id"] = String(id);
      return line;
    });
    const last = Math.min(this.offset + PAGE, table.total);
    const turn = (by: number): void => {
      this.offset = Math.max(0, this.offset + by * PAGE);
      void this.load();
    };
    const pages =
      table.total > PAGE
        ? h(
            "div",
            { class: "pages" },
            h(
              "button",
              {
                type: "button",
                class: "button small",
                "data-tip": "Rows before these",
                disabled: this.offset === 0,
                onclick: () => turn(-1),
              },
              "Previous",
            ),
            h(
              "span",
              { class: "quiet" },
              `${(this.offset + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${table.total.toLocaleString("en")}`,
            ),
            h(
              "button",
              {
                type: "button",
                class: "button small",
                "data-tip": "Rows after these",
                disabled: last >= table.total,
                onclick: () => turn(1),
              },
              "Next",
            ),
          )
        : null;
    replace(this.rows, h("table", {}, h("thead", {}, head()), h("tbody", {}, ...body)), pages);
    this.marks(table);
  }

  /** Dots on the rows of this page, if filters are on. */
  private marks(table: Table): void {
    const { marks } = this.app.viewer;
    marks.clear();
    const filtered = Object.values(this.filters).some((value) => value !== null);
    if (filtered) {
      for (const row of table.rows) {
        const at = this.place(record(row, table.columns));
        if (at) {
          const dot = new OlFeature(new OlPoint(flip(at)));
          dot.set("mark", "dot");
          marks.addFeature(dot);
        }
      }
    }
  }

  /** Where an instance lies, image px: columns that the server gives in that frame. */
  private place(values: Record<string, Cell>): XY | null {
    const x = values["image_x"] ?? values["x"];
    const y = values["image_y"] ?? values["y"];
    return typeof x === "number" && typeof y === "number" ? [x, y] : null;
  }

  private choose(values: Record<string, Cell>, go: boolean): void {
    const { viewer } = this.app;
    this.chosen = values["id"] ?? null;
    this.rows.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
    const row = this.rows.querySelector(`tr[data-id="${CSS.escape(String(this.chosen))}"]`);
    row?.classList.add("chosen");
    if (!go) row?.scrollIntoView({ block: "nearest" });
    replace(
      this.detail,
      h(
        "dl",
        {},
        ...Object.entries(values)
          .filter(([name]) => !PLACE.includes(name))
          .flatMap(([name, value]) => [
            h("dt", {}, heading(name)),
            h("dd", {}, cellText(value, name, this.app.source.unit)),
          ]),
      ),
    );
    const at = this.place(values);
    if (!at) return;
    for (const feature of viewer.marks.getFeatures())
      if (feature.get("mark") === "target") viewer.marks.removeFeature(feature);
    const target = new OlFeature(new OlPoint(flip(at)));
    target.set("mark", "target");
    viewer.marks.addFeature(target);
    if (go) viewer.view.animate({ center: flip(at), resolution: Math.min(viewer.resolution, 1), duration: 220 });
  }

  /** A click on the map while a result is shown. */
  async at(place: XY): Promise<void> {
    const { run, app } = this;
    if (!run || !this.layer.getVisible()) return;
    try {
      const row = await api.at(run.id, app.source.id, place[0], place[1]);
      if (row) this.choose(row, false);
    } catch (error) {
      toast(words(error), "error");
    }
  }

  private export(format: "geojson" | "csv"): void {
    if (!this.run) return;
    const link = h("a", { href: api.exportUrl(this.run.id, { ...this.values, format }), download: "" });
    document.body.append(link);
    link.click();
    link.remove();
  }
}
