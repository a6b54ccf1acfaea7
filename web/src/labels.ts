/**
 * The labels as the page shows them: what the server has confirmed, and over it what was drawn since.
 *
 * Every edit is seen at once and sent in order. Undo and redo are the server's, so they know no limit and survive a
 * reload. An edit that the server refuses disappears again, with a message.
 */
import type { Feature, Geometry, Labels, Op, OpsAnswer } from "./types.ts";

interface Pending {
  ops: Op[];
  /** Features to show until the answer comes. */
  ghosts: Feature[];
  hidden: Set<string>;
}

/** Features that an edit shows until the server has answered, and the ids that it hides. */
export function effect(
  ops: readonly Op[],
  shown: ReadonlyMap<string, Feature>,
  fresh: () => string,
): Omit<Pending, "ops"> {
  const ghosts: Feature[] = [];
  const hidden = new Set<string>();
  const stroke = (op: Extract<Op, { op: "brush" | "erase" }>, erase: boolean): Feature => ({
    type: "Feature",
    id: fresh(),
    geometry: { type: "LineString", coordinates: op.line },
    properties: {
      kind: op.op === "brush" ? op.kind : "object",
      class: op.op === "brush" ? op.class : null,
      radius: op.radius,
      erase,
    },
  });
  for (const op of ops) {
    switch (op.op) {
      case "add":
        ghosts.push(op.feature);
        break;
      case "replace":
        hidden.add(op.id);
        ghosts.push({ ...op.feature, id: op.id });
        break;
      case "delete":
        op.ids.forEach((id) => hidden.add(id));
        break;
      case "relabel":
        for (const id of op.ids) {
          const feature = shown.get(id);
          if (!feature) continue;
          hidden.add(id);
          ghosts.push({ ...feature, properties: { ...feature.properties, class: op.class } });
        }
        break;
      case "brush":
        ghosts.push(stroke(op, false));
        break;
      case "erase":
        ghosts.push(stroke(op, true));
        break;
      default:
        break;
    }
  }
  return { ghosts, hidden };
}

export class LabelStore {
  revision = 0;
  /** Whether there were changes between two answers that neither of them tells of. */
  missed = false;
  undo = false;
  redo = false;
  /** What a run segments, as the server has confirmed it; null: everything. */
  area: Geometry | null = null;
  private confirmed = new Map<string, Feature>();
  private pending: Pending[] = [];
  /** Ids that the page gave -> ids that the server gave. */
  private renamed = new Map<string, string>();
  private counter = 0;
  private readonly stem = Math.random().toString(36).slice(2, 8);

  freshId = (): string => `new-${this.stem}-${++this.counter}`;

  load(labels: Labels): void {
    this.confirmed = new Map(labels.features.map((feature) => [feature.id, feature]));
    this.revision = labels.revision;
    this.missed = false;
    this.undo = labels.undo;
    this.redo = labels.redo;
    this.area = labels.area;
  }

  /** Whether edits wait for an answer. */
  get busy(): boolean {
    return this.pending.length > 0;
  }

  shown(): Map<string, Feature> {
    const view = new Map(this.confirmed);
    for (const { ghosts, hidden } of this.pending) {
      hidden.forEach((id) => view.delete(id));
      ghosts.forEach((ghost) => view.set(ghost.id, ghost));
    }
    return view;
  }

  /** Shows an edit; the returned handle is given to `answered` or `refused` later. */
  begin(ops: Op[]): Pending {
    const edit: Pending = { ops, ...effect(ops, this.shown(), this.freshId) };
    this.pending.push(edit);
    return edit;
  }

  /** An edit with the ids as the server knows them, at the time it is sent. */
  resolved(edit: Pending): Op[] {
    const id = (name: string): string => this.renamed.get(name) ?? name;
    return edit.ops.map((op): Op => {
      switch (op.op) {
        case "replace":
          return { ...op, id: id(op.id), feature: { ...op.feature, id: id(op.feature.id) } };
        case "split":
          return { ...op, id: id(op.id) };
        case "delete":
        case "merge":
        case "relabel":
          return { ...op, ids: op.ids.map(id) };
        case "brush":
          return { ...op, target: op.target === null ? null : id(op.target) };
        case "erase":
          return { ...op, ids: op.ids === null ? null : op.ids.map(id) };
        default:
          return op;
      }
    });
  }

  answered(edit: Pending | null, answer: OpsAnswer): void {
    if (edit) {
      this.pending = this.pending.filter((other) => other !== edit);
      const known = new Set(answer.changed.map((feature) => feature.id));
      const added = edit.ops.flatMap((op) => (op.op === "add" ? [op.feature.id] : []));
      if (added.some((name) => !known.has(name))) {
        const fresh = answer.changed.filter((feature) => !this.confirmed.has(feature.id));
        if (fresh.length === added.length) added.forEach((name, i) => this.renamed.set(name, fresh[i]!.id));
      }
    }
    answer.removed.forEach((name) => this.confirmed.delete(name));
    answer.changed.forEach((feature) => this.confirmed.set(feature.id, feature));
    this.missed ||= answer.revision > this.revision + 1;
    this.revision = answer.revision;
    this.undo = answer.undo;
    this.redo = answer.redo;
    this.area = answer.area;
  }

  refused(edit: Pending, labels: Labels | null): void {
    this.pending = this.pending.filter((other) => other !== edit);
    if (labels) this.load(labels);
  }
}

export type { Pending };

/** What is drawn, for the guide and the list of classes. */
export interface Tally {
  regions: number;
  objects: number;
  /** Objects whose whole outline was drawn or accepted, not painted by the brush. */
  outlined: number;
  /** Objects of which a point is known, no outline. */
  points: number;
  strokes: number;
  byClass: Map<string, number>;
}

export function tally(features: Iterable<Feature>): Tally {
  const sum: Tally = { regions: 0, objects: 0, outlined: 0, points: 0, strokes: 0, byClass: new Map() };
  for (const { properties } of features) {
    if (properties.erase || properties.kind === "area") continue;
    if (properties.kind === "region") sum.regions++;
    else if (properties.kind === "object" || (properties.kind === "point" && !properties.negative)) {
      sum.objects++;
      if (properties.kind === "point") sum.points++;
      else if (properties.source !== "brush" && properties.radius === undefined) sum.outlined++;
      if (properties.class !== null) sum.byClass.set(properties.class, (sum.byClass.get(properties.class) ?? 0) + 1);
    } else sum.strokes++;
  }
  return sum;
}
