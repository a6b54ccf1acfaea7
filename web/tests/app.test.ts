import assert from "node:assert/strict";
import { test } from "node:test";
import { mayHelp, Refused } from "../src/api.ts";
import { App } from "../src/app.ts";
import type { Info, Labels, Resolution, SourceInfo } from "../src/types.ts";
import type { Viewer } from "../src/viewer.ts";

/** What the server answers, by the path of the request. */
type Answers = Record<string, () => unknown>;

const RESOLUTION: Resolution = { factor: 1, values: [], text: "", to: 1, is_kept: false };

const source = (id: string, scale: number): SourceInfo => ({ id, work_scale: scale, kind: "slide" }) as SourceInfo;
const info = (scale: number): Info => ({ sources: [source("0", scale), source("1", scale)], classes: [] }) as never;
const labels = (revision: number, ...ids: string[]): Labels => ({
  revision,
  features: ids.map((id) => ({
    type: "Feature",
    id,
    geometry: { type: "Point", coordinates: [1, 1] },
    properties: { kind: "point", class: "Nucleus" },
  })),
  undo: true,
  redo: false,
  area: null,
  classes: [],
});

/** A page of two images at the scale at which it was opened, and what it has asked the server for. */
function page(scale: number, answers: Answers): { app: App; asked: string[] } {
  const asked: string[] = [];
  globalThis.fetch = (address) => {
    const path = String(address).split("?")[0]!;
    asked.push(path);
    return Promise.resolve(Response.json(answers[path]!()));
  };
  const nothing = (): void => undefined;
  const own = { selected: new Set<string>(), outlineLayer: { changed: nothing }, proposal: { clear: nothing } };
  const viewer = new Proxy(own, { get: (_, name) => Reflect.get(own, name) ?? nothing });
  const app = new App(viewer as unknown as Viewer, false);
  app.info = info(scale);
  app.source = app.info.sources[0]!;
  return { app, asked };
}

test("a resolution that has changed since the page was opened is taken over", async () => {
  const { app, asked } = page(1, { "/api/info": () => info(4) });
  await app.setResolution({ ...RESOLUTION, factor: 4 });
  assert.deepEqual([app.source.work_scale, app.resolution?.factor], [4, 4]);
  await app.setResolution({ ...RESOLUTION, factor: 4 });
  assert.deepEqual(asked, ["/api/info"]);
});

test("a resolution of which the page could not ask everything is taken over at the next answer", async () => {
  const answers: Answers = {
    "/api/info": () => {
      throw new TypeError("no server");
    },
  };
  const { app } = page(1, answers);
  await assert.rejects(app.setResolution({ ...RESOLUTION, factor: 4 }));
  answers["/api/info"] = () => info(4);
  await app.setResolution({ ...RESOLUTION, factor: 4 });
  assert.equal(app.source.work_scale, 4);
});

test("labels that changed between two answers are asked for", async () => {
  const { app, asked } = page(1, {
    "/api/labels/ops": () => ({ ...labels(4), changed: labels(4, "own").features, removed: [] }),
    "/api/labels": () => labels(4, "other", "own"),
  });
  app.store.load(labels(2));
  app.apply([{ op: "add", feature: labels(0, "own").features[0]! }]);
  while (app.store.busy || app.store.missed) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual(asked, ["/api/labels/ops", "/api/labels"]);
  assert.deepEqual([...app.store.shown().keys()], ["other", "own"]);
  await app.catchUp();
  assert.equal(asked.length, 2, "nothing is missing any more");
});

test("after a change of the resolution another image is opened at it", async () => {
  const { app } = page(1, {
    "/api/info": () => info(4),
    "/api/labels": () => labels(1),
    "/api/preview": () => ({ state: "empty" }),
  });
  await app.setResolution({ ...RESOLUTION, factor: 4 });
  await app.goTo("1");
  assert.deepEqual([app.source.id, app.source.work_scale], ["1", 4]);
});

test("a class of labelled pictures is chosen in any case, one that is drawn by its own name", () => {
  const { app } = page(1, { "/api/labels/ops": () => ({ ...labels(1), changed: [], removed: [] }) });
  app.folders = [{ used: true, patches: [], classes: { Nucleus: 3 } }] as never;
  app.setClasses([
    { name: "Nucleus", colour: "#e6550d" },
    { name: "Gland", colour: "#0072b2" },
  ]);
  app.addClass("nucleus");
  assert.equal(app.activeClass, "Nucleus");
  assert.equal(app.classes.length, 2);
  app.addClass("gland");
  assert.deepEqual([app.activeClass, app.classes.length], ["gland", 3]);
});

test("what was counted is not told of another part of the image", () => {
  const { app } = page(1, {});
  const counted = { count: 273, fraction: 0.25, truncated: false };
  app.setPreview("0", { revision: 3, state: "ready", cells_done: 4, cells_total: 4, seconds: 1, message: null });
  app.counts.set("Nucleus", counted);
  app.moved();
  assert.deepEqual([app.counts.get("Nucleus")?.count, app.counting], [0, true]);
  app.counts.set("Nucleus", counted);
  app.settings.preview = false; // nothing will be counted
  app.moved();
  assert.deepEqual([app.counts.size, app.counting], [0, false]);
});

test("an edit that makes no sense is not offered once more", () => {
  assert.ok(!mayHelp(new Refused(400, "a point lies outside the image; click on it")));
  assert.ok(mayHelp(new Refused(507, "the disk is full")));
  assert.ok(mayHelp(new TypeError("no server")));
});
