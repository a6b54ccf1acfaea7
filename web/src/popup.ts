/** The small card at a found object: accept, reject, relabel, split. */
import Overlay from "ol/Overlay.js";
import { api } from "./api.ts";
import type { App } from "./app.ts";
import { button, h, replace } from "./dom.ts";
import { areaText, flip, innerPoint } from "./frame.ts";
import { keyOf } from "./keys.ts";
import type { Tools } from "./tools.ts";
import type { Feature, XY } from "./types.ts";
import { chip } from "./panels/toolbar.ts";

export class ObjectCard {
  private readonly app: App;
  private readonly tools: Tools;
  private readonly element = h("div", { class: "card", role: "dialog", "aria-label": "Found object" });
  private readonly overlay: Overlay;
  private current: { feature: Feature; at: XY } | null = null;

  constructor(app: App, tools: Tools) {
    this.app = app;
    this.tools = tools;
    this.overlay = new Overlay({
      element: this.element,
      positioning: "bottom-center",
      offset: [0, -10],
      stopEvent: true,
      autoPan: { animation: { duration: 150 } },
    });
    app.viewer.map.addOverlay(this.overlay);
    app.on(["tool", "source", "selection"], () => this.close());
  }

  get open(): boolean {
    return this.current !== null;
  }

  close(): void {
    this.current = null;
    this.overlay.setPosition(undefined);
  }

  show(feature: Feature, at: XY): void {
    const { app } = this;
    const { area_px: area, probability, class: name } = feature.properties;
    const words = [
      area === undefined ? "" : areaText(area, app.source),
      probability === undefined ? "" : `probability ${probability.toFixed(2)}`,
    ]
      .filter(Boolean)
      .join(" · ");
    const others = app.classes.filter((other) => other.name !== name);
    const relabel = h(
      "select",
      {
        "aria-label": "Accept it as another class",
        "data-tip": "Accept it as another class",
        onchange: () => this.act("relabel", relabel.value),
      },
      h("option", { value: "", selected: true }, "It is…"),
      ...others.map((other) => h("option", { value: other.name }, other.name)),
    );
    replace(
      this.element,
      h(
        "div",
        { class: "card-head" },
        name ? chip(name) : null,
        h("span", { class: "quiet" }, words),
        button({ label: "Close", icon: "cross", class: "small", key: keyOf("cancel"), onclick: () => this.close() }),
      ),
      h(
        "div",
        { class: "card-actions" },
        button({
          label: "Right: make it a label",
          text: "Accept",
          icon: "check",
          key: keyOf("accept-object"),
          class: "small primary",
          id: "accept-object",
          onclick: () => this.act("accept"),
        }),
        button({
          label: "None: mark it as background",
          text: "Reject",
          icon: "not",
          key: keyOf("reject-object"),
          class: "small",
          id: "reject-object",
          onclick: () => this.act("reject"),
        }),
        button({
          label: "Two in one: draw a line between",
          text: "Split",
          icon: "split",
          key: keyOf("tool:split"),
          class: "small",
          id: "split-object",
          onclick: () => this.split(),
        }),
        others.length ? relabel : null,
      ),
    );
    // after the selection was cleared, which closes the card
    this.current = { feature, at };
    this.overlay.setPosition(flip(at));
  }

  split(): void {
    const feature = this.current?.feature;
    if (!feature) return;
    this.app.setTool("split");
    this.tools.splitFound = feature;
  }

  act(action: "accept" | "reject" | "relabel", name: string | null = null): void {
    if (this.current) void this.send(action, this.current.feature, this.current.at, name);
    this.close();
  }

  async send(
    action: "accept" | "reject" | "relabel",
    feature: Feature,
    at: XY | null,
    name: string | null = null,
  ): Promise<void> {
    const { app } = this;
    const place = at ?? innerPoint(feature.geometry);
    const done = await app.take(() =>
      api.object({
        source: app.source.id,
        x: place[0],
        y: place[1],
        threshold: app.settings.threshold,
        action,
        class: name ?? feature.properties.class,
        line: null,
      }),
    );
    if (done) app.noteStroke(place);
  }
}
