import assert from "node:assert/strict";
import { test } from "node:test";
import { brushed, short } from "../src/charts.ts";
import { nextStep, STEPS, type Situation } from "../src/guide.ts";
import { areaOf, cellText, heading, record } from "../src/table.ts";
import { countText, ofWhat } from "../src/panels/statusbar.ts";
import { BINDINGS, commandOf, keyCap, keyOf, written } from "../src/keys.ts";

const pressed = (key: string, more: Partial<Record<"ctrlKey" | "metaKey" | "shiftKey" | "altKey", boolean>> = {}) => ({
  key,
  ctrlKey: false,
  metaKey: false,
  shiftKey: false,
  altKey: false,
  ...more,
});

test("no key has two commands, and each command is found by each of its keys", () => {
  const all = BINDINGS.flatMap(({ keys }) => keys);
  assert.equal(new Set(all).size, all.length);
  assert.equal(commandOf(pressed("Z", { ctrlKey: true, shiftKey: true })), "redo");
  assert.equal(commandOf(pressed("z", { metaKey: true })), "undo");
  assert.equal(commandOf(pressed("?", { shiftKey: true })), "help");
  assert.equal(commandOf(pressed("+", { shiftKey: true })), "zoom-in");
  assert.equal(commandOf(pressed("R")), "tool:region");
  assert.equal(commandOf(pressed("r", { ctrlKey: true })), null, "the browser's reload stays the browser's");
  assert.equal(written(pressed("ArrowLeft", { altKey: true })), "Alt+ArrowLeft");
});

test("digits are free for the classes", () => {
  for (let digit = 1; digit <= 9; digit++) assert.equal(commandOf(pressed(String(digit))), null);
});

test("key caps read as printed on a keyboard", () => {
  assert.equal(keyCap("Ctrl+Shift+z"), "Ctrl Shift Z");
  assert.equal(keyCap("+"), "+");
  assert.equal(keyOf("cancel"), "Esc");
});

const NOW: Situation = {
  classes: 1,
  regions: 0,
  objects: 0,
  outlined: 0,
  points: 0,
  strokes: 0,
  patches: 0,
  map: false,
  zoomedOut: false,
  preview: "empty",
  rounds: 0,
  worse: false,
  proposal: "none",
  run: "none",
  resultShown: false,
};

test("the guide leads from the first outline to the run and never back", () => {
  const journey: Partial<Situation>[] = [
    { zoomedOut: true },
    {},
    { objects: 1, outlined: 1 },
    { objects: 3, outlined: 3, preview: "ready" },
    { objects: 4, outlined: 2, strokes: 2, preview: "ready" },
    { objects: 4, outlined: 2, strokes: 2, preview: "ready", proposal: "region" },
    { regions: 1, objects: 9, preview: "ready" },
    { regions: 3, objects: 40, preview: "ready" },
    { regions: 5, objects: 100, preview: "ready" },
    { regions: 5, objects: 100, preview: "ready", run: "running" },
    { regions: 5, objects: 100, preview: "ready", run: "new" },
    { regions: 5, objects: 100, preview: "ready", run: "done", resultShown: true },
  ];
  const steps = journey.map((part) => nextStep({ ...NOW, ...part }));
  assert.deepEqual(
    steps.map(({ number }) => number),
    [1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 5],
  );
  for (const { text, number } of steps) {
    assert.ok(text.length > 20 && text.length < 150, text);
    assert.ok(STEPS[number - 1]);
  }
});

test("a proposal and a worse round come first", () => {
  assert.equal(nextStep({ ...NOW, regions: 2, objects: 9, proposal: "wand" }).action, "accept");
  assert.match(nextStep({ ...NOW, regions: 4, objects: 50, preview: "ready", worse: true }).text, /worse/);
  assert.equal(nextStep({ ...NOW, classes: 0 }).action, "class");
  assert.equal(nextStep({ ...NOW, objects: 2 }).action, "not", "painted parts alone: there is no background yet");
  assert.match(nextStep({ ...NOW, regions: 1 }).text, /every object in the region/);
  assert.equal(nextStep({ ...NOW, objects: 2, points: 2 }).action, "region", "points alone: nothing is learned yet");
});

test("labelled pictures are looked at first, and count as regions", () => {
  const beside = { ...NOW, patches: 5, preview: "ready" } as const;
  assert.equal(nextStep({ ...beside, zoomedOut: true }).action, "zoom");
  assert.equal(nextStep(beside).action, "finish");
  assert.equal(nextStep({ ...beside, strokes: 1 }).action, "finish");
  assert.match(nextStep({ ...beside, regions: 1 }).text, /press G/, "a region without objects is one of background");
  assert.equal(nextStep({ ...beside, regions: 2, objects: 20 }).action, "run");
});

test("a brush over a histogram takes whole bins, in either direction, and at least one", () => {
  const edges = [0, 10, 20, 30, 40];
  assert.deepEqual(brushed(edges, 0.3, 0.6), [10, 30]);
  assert.deepEqual(brushed(edges, 0.6, 0.3), [10, 30]);
  assert.deepEqual(brushed(edges, 1, 1), [30, 40]);
  assert.deepEqual(brushed(edges, 0, 1), [0, 40]);
});

test("numbers on an axis are short", () => {
  assert.deepEqual([0, 0.1234, 12.34, 512.4, 12_340, 2_500_000].map(short), [
    "0",
    "0.123",
    "12.3",
    "512",
    "12.3k",
    "2.5M",
  ]);
});

test("a table shows coordinates whole and other numbers short, and its columns in words", () => {
  assert.equal(cellText(-74.612345, "x", "degree"), "-74.61235");
  assert.equal(cellText(0.51, "eccentricity", "degree"), "0.51");
  assert.deepEqual(
    [547_191.25, 12, 0.123456, 99.96, null, "Nucleus"].map((value) => cellText(value)),
    ["547,191.3", "12", "0.123", "100", "", "Nucleus"],
  );
  assert.deepEqual(["area_um2", "mean_probability", "length_m"].map(heading), [
    "area (µm²)",
    "mean probability",
    "length (m)",
  ]);
  assert.equal(areaOf(["id", "area_px", "area_um2"]), "area_um2");
  assert.equal(areaOf(["id", "area_px"]), "area_px");
  assert.deepEqual(record([1, "a"], ["id", { name: "class" }]), { id: 1, class: "a" });
});

test("what is not counted is no zero", () => {
  const words = (count: number, truncated: boolean, counting = false): string => {
    const found = { count, fraction: 0.125, truncated };
    return `${countText(found, counting)} ${ofWhat(found, false, counting)}`;
  };
  assert.equal(words(0, true), "– in view · zoom in to count");
  assert.equal(words(3456, true), "3,456 in view · 12.5 % of it · zoom in for outlines");
  assert.equal(words(0, false), "0 in view · 12.5 % of it");
  assert.equal(words(0, false, true), "counting… in view");
  assert.equal(words(7, false, true), "7 in view · 12.5 % of it");
  assert.equal(ofWhat({ count: 7, fraction: 0, truncated: false }, true), "in the area in view · 0.0 % of it");
});
