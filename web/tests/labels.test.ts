import assert from "node:assert/strict";
import { test } from "node:test";
import { LabelStore, tally } from "../src/labels.ts";
import type { Feature, Kind, Labels, Op, OpsAnswer } from "../src/types.ts";

const feature = (id: string, kind: Kind = "object", name: string | null = "Nucleus"): Feature => ({
  type: "Feature",
  id,
  geometry: {
    type: "Polygon",
    coordinates: [
      [
        [0, 0],
        [4, 0],
        [4, 4],
        [0, 0],
      ],
    ],
  },
  properties: { kind, class: name, source: "drawn" },
});
const labels = (...features: Feature[]): Labels => ({
  revision: 7,
  features,
  undo: true,
  redo: false,
  area: null,
  classes: [],
});
const answer = (changed: Feature[], removed: string[] = []): OpsAnswer => ({
  revision: 8,
  changed,
  removed,
  undo: true,
  redo: false,
  area: null,
  classes: [],
});
const store = (...features: Feature[]): LabelStore => {
  const made = new LabelStore();
  made.load(labels(...features));
  return made;
};

test("an edit is seen at once and is not lost by the answer", () => {
  const mine = store(feature("a"));
  const op: Op = { op: "add", feature: feature("new-1") };
  const edit = mine.begin([op]);
  assert.deepEqual([...mine.shown().keys()], ["a", "new-1"]);
  assert.equal(mine.busy, true);
  mine.answered(edit, answer([feature("srv")]));
  assert.deepEqual([...mine.shown().keys()], ["a", "srv"]);
  assert.equal(mine.busy, false);
  assert.equal(mine.revision, 8);
});

test("an edit of a label that the server has renamed meanwhile names it as the server does", () => {
  const mine = store();
  const first = mine.begin([{ op: "add", feature: feature("new-1") }]);
  const second = mine.begin([{ op: "delete", ids: ["new-1"] }]);
  assert.equal(mine.shown().size, 0);
  mine.answered(first, answer([feature("srv")]));
  assert.deepEqual(mine.resolved(second), [{ op: "delete", ids: ["srv"] }]);
});

test("ids that the server keeps are kept", () => {
  const mine = store();
  const first = mine.begin([{ op: "add", feature: feature("new-1") }]);
  const second = mine.begin([
    {
      op: "split",
      id: "new-1",
      line: [
        [0, 0],
        [1, 1],
      ],
    },
  ]);
  mine.answered(first, answer([feature("new-1")]));
  assert.deepEqual(mine.resolved(second), [
    {
      op: "split",
      id: "new-1",
      line: [
        [0, 0],
        [1, 1],
      ],
    },
  ]);
});

test("a refused edit disappears, and with the server's labels everything is as they say", () => {
  const mine = store(feature("a"), feature("b"));
  const edit = mine.begin([{ op: "delete", ids: ["a"] }]);
  assert.deepEqual([...mine.shown().keys()], ["b"]);
  mine.refused(edit, null);
  assert.deepEqual([...mine.shown().keys()], ["a", "b"]);
  const other = mine.begin([{ op: "relabel", ids: ["b"], class: "Mitosis" }]);
  assert.equal(mine.shown().get("b")!.properties.class, "Mitosis");
  mine.refused(other, labels(feature("c")));
  assert.deepEqual([...mine.shown().keys()], ["c"]);
});

test("strokes show until they are answered, also those of the eraser", () => {
  const mine = store(feature("a"));
  const edit = mine.begin([
    {
      op: "brush",
      line: [
        [0, 0],
        [9, 9],
      ],
      radius: 3,
      class: "Nucleus",
      kind: "object",
      target: "a",
    },
    { op: "erase", line: [[0, 0]], radius: 2, ids: null },
  ]);
  const strokes = [...mine.shown().values()].filter(({ properties }) => properties.radius !== undefined);
  assert.deepEqual(
    strokes.map(({ properties }) => [properties.radius, properties.erase]),
    [
      [3, false],
      [2, true],
    ],
  );
  mine.answered(edit, answer([feature("a")]));
  assert.deepEqual([...mine.shown().keys()], ["a"]);
});

test("what is drawn is counted by kind and class", () => {
  const sum = tally([
    feature("r", "region", null),
    feature("a"),
    feature("b", "object", "Mitosis"),
    feature("n", "not", null),
    feature("p", "point"),
  ]);
  assert.deepEqual([sum.regions, sum.objects, sum.outlined, sum.points, sum.strokes], [1, 3, 2, 1, 1]);
  assert.deepEqual(
    [...sum.byClass],
    [
      ["Nucleus", 2],
      ["Mitosis", 1],
    ],
  );
});
