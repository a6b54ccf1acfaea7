/** The status bar with scale, place and counts, and the overview in the corner of the map. */
import { api, thumbnailOf } from "../api.ts";
import type { App, Count } from "../app.ts";
import { debounce, h, replace } from "../dom.ts";
import { lonLatText, metresPerPixel, placeText, scaleBar, zoomText } from "../frame.ts";
import { chip } from "./toolbar.ts";

/** The number of found objects; none where so much is in view that they are not counted. */
export function countText({ count, truncated }: Count, counting: boolean): string {
  if (count > 0) return count.toLocaleString("en");
  return truncated ? "–" : counting ? "counting…" : "0";
}

/** Of what that is the number, and the share that is covered. */
export function ofWhat({ count, fraction, truncated }: Count, hasArea: boolean, counting = false): string {
  const where = hasArea ? "in the area in view" : "in view";
  if (truncated && count === 0) return `${where} · zoom in to count`;
  if (counting && count === 0) return where;
  return `${where} · ${(fraction * 100).toFixed(1)} % of it${truncated ? " · zoom in for outlines" : ""}`;
}

export function statusbar(app: App): HTMLElement {
  const place = h("span", { class: "place" });
  const lonlat = h("span", { class: "place quiet" });
  const crs = h("span", { class: "quiet ellipsis crs" });
  const counts = h("span", { class: "counts", id: "counts", "aria-live": "off" });
  const zoom = h("span", { class: "quiet", "data-tip": "Screen px per image px" });
  const scale = h(
    "div",
    { class: "scale", "aria-label": "Scale bar" },
    h("span", {}),
    h("div", { class: "scale-line" }),
  );
  const { map } = app.viewer;
  const ask = debounce(() => {
    const { pointer, source } = app;
    if (!pointer || source.kind !== "raster" || source.unit === "degree" || !source.crs) return;
    void api.lonlat(source.id, pointer[0], pointer[1]).then(
      (at) => (lonlat.textContent = at ? lonLatText(at.lon, at.lat) : ""),
      () => (lonlat.textContent = ""),
    );
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
      return found
        ? [
            h(
              "span",
              { class: "count-in-view" },
              chip(name),
              h("strong", {}, countText(found, app.counting)),
              h("span", { class: "quiet" }, ` ${ofWhat(found, app.store.area !== null, app.counting)}`),
            ),
          ]
        : [];
    });
    counts.dataset["state"] = app.counting ? "counting" : "counted";
    replace(counts, ...parts);
  };
  app.on(["counts", "classes", "source", "settings"], draw);
  return h("footer", { class: "statusbar" }, scale, place, lonlat, crs, h("span", { class: "grow" }), counts, zoom);
}

/** The whole image, small, with what is in view; a click or drag goes there. */
export function overview(app: App): HTMLElement {
  const picture = h("img", { alt: "", draggable: "false" });
  const frame = h("div", { class: "overview-frame" });
  const box = h(
    "div",
    { class: "float overview", "aria-hidden": "true" },
    h("div", { class: "overview-image" }, picture, frame),
  );
  const inner = box.firstElementChild as HTMLElement;
  app.on("source", () => {
    const { width, height } = app.source;
    const scale = Math.min(132 / width, 104 / height);
    inner.style.width = `${Math.max(width * scale, 8)}px`;
    inner.style.height = `${Math.max(height * scale, 8)}px`;
    picture.src = thumbnailOf(app.source);
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
    app.viewer.view.setCenter([
      ((event.clientX - bounds.left) / bounds.width) * app.source.width,
      (-(event.clientY - bounds.top) / bounds.height) * app.source.height,
    ]);
  };
  inner.addEventListener("pointerdown", (event) => {
    inner.setPointerCapture(event.pointerId);
    go(event);
  });
  inner.addEventListener("pointermove", (event) => inner.hasPointerCapture(event.pointerId) && go(event));
  return box;
}
