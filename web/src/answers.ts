/** Keeps the preview on the screen: asks for what is in view, shows tiles and outlines of the newest answer, counts. */
import { api, Refused } from "./api.ts";
import type { App } from "./app.ts";
import { debounce, throttle } from "./dom.ts";
import { AnswerLayer } from "./layers.ts";
import { dataOf, toOl } from "./viewer.ts";

export class Answers {
  private readonly app: App;
  private readonly classes = new Map<string, AnswerLayer>();
  private readonly unsure: AnswerLayer;
  private running: AbortController | null = null;
  private stamp = 0;
  /** How often the preview has changed: an answer asked for before the newest change counts what it was. */
  private changes = 0;

  constructor(app: App) {
    this.app = app;
    this.unsure = new AnswerLayer(app.viewer, app.webgl, 12);
    const { map } = app.viewer;
    const another = (): void => {
      this.changes++;
      app.moved();
    };
    map.on("moveend", () => {
      another();
      this.look();
    });
    document.addEventListener("visibilitychange", () => this.refresh());
    app.on("source", () => {
      for (const layer of this.classes.values()) layer.clear();
      this.unsure.clear();
      this.look();
    });
    app.on("preview", () => {
      this.changes++;
      app.counting = true;
      app.emit("counts");
      this.refresh();
    });
    app.on("area", () => {
      another();
      this.outlines();
    });
    app.on("classes", () => {
      this.match();
      this.style();
      this.outlines();
    });
    app.on("settings", () => {
      this.style();
      this.outlines();
    });
  }

  /** One layer for each class. */
  private match(): void {
    const names = new Set(this.app.classes.map(({ name }) => name));
    for (const [name, layer] of this.classes) {
      if (!names.has(name)) {
        layer.remove();
        this.classes.delete(name);
      }
    }
    for (const name of names) {
      if (!this.classes.has(name)) this.classes.set(name, new AnswerLayer(this.app.viewer, this.app.webgl, 10));
    }
  }

  style(): void {
    const { settings, classes, hidden } = this.app;
    const { threshold, opacity, heat } = settings;
    for (const { name, colour } of classes) {
      const visible = settings.preview && !hidden.has(name) && (!heat || name === this.app.activeClass);
      this.classes.get(name)?.style({
        threshold,
        opacity: heat ? Math.min(1, opacity * 1.6) : opacity,
        mode: heat ? "heat" : "area",
        visible,
        colour,
      });
    }
    this.unsure.style({ colour: "#7a2bff", threshold, opacity: 0.85, mode: "unsure", visible: settings.unsure });
    this.app.viewer.outlineLayer.setVisible(settings.preview && settings.outlines);
    this.app.viewer.labelLayer.setVisible(settings.labels);
  }

  private readonly look = throttle(() => {
    const { app } = this;
    const box = app.viewer.box();
    if (!box) return;
    void api.view(app.source.id, box, app.pointer).catch(() => undefined);
    this.outlines();
  }, 150);

  /** New cells or a new revision: new tiles, at most a few times a second. */
  readonly refresh = throttle(() => {
    const { app } = this;
    const { revision, state, cells_done } = app.preview;
    if (state === "computing" && revision === 0) return; // no answer yet
    if (state === "empty") {
      for (const layer of this.classes.values()) layer.clear();
      this.unsure.clear();
      app.viewer.outlines.clear();
      app.counts.clear();
      app.emit("counts");
      return;
    }
    this.stamp++;
    const stamp = `${app.info.start}-${cells_done}-${this.stamp}`;
    const source = encodeURIComponent(app.source.id);
    app.classes.forEach(({ name }) => {
      if (app.info.sources.length === 1 && !app.isLearned(name)) return this.classes.get(name)?.clear();
      this.classes.get(name)?.show(`/tile/probability/${source}/${revision}/${encodeURIComponent(name)}`, stamp);
    });
    const active = app.activeClass;
    if (active !== null && (app.isLearned(active) || app.info.sources.length > 1))
      this.unsure.show(`/tile/probability/${source}/${revision}/${encodeURIComponent(active)}`, stamp);
    else this.unsure.clear();
    this.style();
    this.outlines();
  }, 250);

  private readonly outlines = debounce(() => void this.fetchOutlines(), 160);

  private async fetchOutlines(): Promise<void> {
    const { app } = this;
    const box = app.viewer.box();
    if (document.hidden || !box || app.preview.state === "empty" || app.preview.revision === 0 || !app.settings.preview)
      return;
    this.running?.abort();
    const running = (this.running = new AbortController());
    const source = app.source.id;
    const { changes } = this;
    try {
      const names = app.classes.map(({ name }) => name).filter((name) => !app.hidden.has(name));
      const answers = await Promise.all(
        names.map((name) => api.outlines(source, name, app.settings.threshold, box, running.signal)),
      );
      if (source !== app.source.id || String(app.viewer.box()) !== String(box)) return;
      app.viewer.outlines.clear(true);
      app.counts.clear();
      answers.forEach((answer, i) => {
        const name = names[i]!;
        app.counts.set(name, { count: answer.count, fraction: answer.area_fraction, truncated: answer.truncated });
        const features = answer.features.map((feature, n) =>
          toOl({
            ...feature,
            id: feature.id ?? `${name}-${n}`,
            properties: { ...feature.properties, class: feature.properties.class ?? name },
          }),
        );
        app.viewer.outlines.addFeatures(features);
      });
      app.counting = changes !== this.changes;
      app.emit("counts");
    } catch (error) {
      if (!(error instanceof DOMException) && !(error instanceof Refused)) console.warn(error);
    }
  }

  /** The found object at a place on the screen, or null. */
  objectAt(pixel: number[]): ReturnType<typeof dataOf> | null {
    const { viewer } = this.app;
    if (!viewer.outlineLayer.getVisible()) return null;
    const feature = viewer.map.forEachFeatureAtPixel(pixel, (found) => found, {
      layerFilter: (layer) => layer === viewer.outlineLayer,
      hitTolerance: 2,
    });
    return feature ? (feature.get("data") as ReturnType<typeof dataOf>) : null;
  }
}
