/** The state of the page and what can be done to it. Panels and tools listen to it and call it. */
import { api, mayHelp, Refused } from "./api.ts";
import { plural, toast } from "./dom.ts";
import { boundsOf, contains } from "./frame.ts";
import type { ToolName } from "./keys.ts";
import { LabelStore, tally, type Tally } from "./labels.ts";
import { setColours } from "./styles.ts";
import type {
  Box,
  ClassInfo,
  Feature,
  Folder,
  Info,
  Labels,
  Op,
  OpsAnswer,
  PreviewStatus,
  Resolution,
  Round,
  Run,
  SourceInfo,
  XY,
} from "./types.ts";
import { dataOf, type Viewer } from "./viewer.ts";

export type Topic =
  | "source"
  | "sources"
  | "labels"
  | "folders"
  | "area"
  | "classes"
  | "tool"
  | "preview"
  | "counts"
  | "rounds"
  | "runs"
  | "selection"
  | "proposal"
  | "settings"
  | "link"
  | "tab"
  | "view"
  | "accepted"
  | "result"
  | "resolution";

export type Tab = "label" | "improve" | "run" | "results";

export interface Proposal {
  kind: "wand" | "region";
  features: Feature[];
}

/** Found objects of a class in view: their number, the part of it that they cover, and whether it is too much to draw. */
export interface Count {
  count: number;
  fraction: number;
  truncated: boolean;
}

/** What the person set and this browser remembers. */
export interface Settings {
  preview: boolean;
  outlines: boolean;
  unsure: boolean;
  labels: boolean;
  heat: boolean;
  opacity: number;
  threshold: number;
  radius: number;
  theme: "dark" | "light" | "system";
}

/** Colours of new classes: apart from each other, from tissue, and from land. */
const PALETTE = ["#00c2de", "#ff8a1f", "#7bd63c", "#e64fb0", "#ffd23f", "#6f7bf7", "#f2545b", "#1fb58f"];

const STORED = "fewscope.annotate";
const DEFAULTS: Settings = {
  preview: true,
  outlines: true,
  unsure: false,
  labels: true,
  heat: false,
  opacity: 0.45,
  threshold: 0.5,
  radius: 8,
  theme: "system",
};

function storedSettings(): Settings {
  try {
    return { ...DEFAULTS, ...(JSON.parse(localStorage.getItem(STORED) ?? "{}") as Partial<Settings>), unsure: false };
  } catch {
    return { ...DEFAULTS };
  }
}

const NONE: PreviewStatus = { revision: 0, state: "empty", cells_done: 0, cells_total: 0, seconds: 0, message: null };

export class App {
  info!: Info;
  source!: SourceInfo;
  readonly viewer: Viewer;
  store = new LabelStore();
  classes: ClassInfo[] = [];
  /** Labelled pictures that are learned from as well, or may be. */
  folders: Folder[] = [];
  activeClass: string | null = null;
  hidden = new Set<string>();
  tool: ToolName = "select";
  tab: Tab = "label";
  settings = storedSettings();
  proposal: Proposal | null = null;
  rounds: Round[] = [];
  runs: Run[] = [];
  resolution: Resolution | null = null;
  /** The run whose instances are shown, or null. */
  result: string | null = null;
  /** Runs whose results have been shown, and those that were there when the page was opened. */
  readonly seen = new Set<string>();
  linked = true;
  pointer: XY | null = null;
  counts = new Map<string, Count>();
  /** Whether the counts are of an answer before the newest. */
  counting = false;
  /** The place of the last stroke, for "finish this region". */
  lastStroke: XY | null = null;
  /** Whether it was a point on an object: of which nothing is learned without a region around it. */
  lastIsPoint = false;
  readonly webgl: boolean;
  private previews = new Map<string, PreviewStatus>();
  private listeners = new Map<Topic, (() => void)[]>();
  /** The newest revision that the server has told of. */
  private newest = 0;
  private queue: Promise<void> = Promise.resolve();

  constructor(viewer: Viewer, webgl: boolean) {
    this.viewer = viewer;
    this.webgl = webgl;
  }

  on(topics: Topic | Topic[], run: () => void): void {
    for (const topic of Array.isArray(topics) ? topics : [topics]) {
      this.listeners.set(topic, [...(this.listeners.get(topic) ?? []), run]);
    }
  }

  emit(topic: Topic): void {
    this.listeners.get(topic)?.forEach((run) => run());
  }

  set(values: Partial<Settings>): void {
    this.settings = { ...this.settings, ...values };
    try {
      localStorage.setItem(STORED, JSON.stringify(this.settings));
    } catch {
      // a browser that stores nothing forgets the settings, no more
    }
    this.emit("settings");
  }

  setTool(tool: ToolName): void {
    if (tool === "split" && this.viewer.selected.size !== 1 && this.tool === "split") return;
    this.tool = tool;
    this.emit("tool");
  }

  setTab(tab: Tab): void {
    this.tab = tab;
    this.emit("tab");
  }

  // Sources

  async open(source: SourceInfo): Promise<void> {
    const labels = await api.labels(source.id);
    this.source = source;
    this.store = new LabelStore();
    this.newest = 0;
    this.counts.clear();
    this.setProposal(null);
    this.viewer.open(source);
    this.store.load(labels);
    this.setClasses(labels.classes.length ? labels.classes : this.info.classes);
    this.viewer.show(this.store.shown());
    this.showArea();
    this.lookAtRegions(labels.features);
    this.lastStroke = null;
    this.emit("source");
    this.emit("labels");
    this.emit("selection");
    await this.askPreview();
  }

  /** Starts where the labels are, if they are close together; with the whole image otherwise. */
  private lookAtRegions(features: Feature[]): void {
    if (this.viewer.returned) return;
    const boxes = features
      .filter(({ properties }) => properties.kind === "region")
      .map(({ geometry }) => boundsOf(geometry));
    const first = boxes[0];
    if (!first) return;
    const all = boxes.reduce(
      (sum, box): Box => [
        Math.min(sum[0], box[0]),
        Math.min(sum[1], box[1]),
        Math.max(sum[2], box[2]),
        Math.max(sum[3], box[3]),
      ],
      first,
    );
    const near = Math.max(all[2] - all[0], all[3] - all[1]) < 3000 * this.source.work_scale;
    this.viewer.fit(near ? all : first, 90, 0);
  }

  /** Opens another image; where the server does not answer, the one that is open stays. */
  async goTo(id: string): Promise<void> {
    const source = this.info.sources.find((one) => one.id === id);
    if (!source) return;
    try {
      await this.open(source);
    } catch (error) {
      toast(words(error), "error");
    }
  }

  async step(by: number): Promise<void> {
    const all = this.info.sources;
    const now = all.findIndex(({ id }) => id === this.source.id);
    const next = all[(now + by + all.length) % all.length];
    if (next && next.id !== this.source.id) await this.goTo(next.id);
  }

  setClasses(classes: ClassInfo[]): void {
    this.classes = classes;
    if (!classes.some(({ name }) => name === this.activeClass)) this.activeClass = classes[0]?.name ?? null;
    this.applyColours();
    this.emit("classes");
  }

  private applyColours(): void {
    setColours(this.classes, this.hidden);
    this.viewer.restyle();
    this.viewer.outlineLayer.changed();
  }

  toggleClass(name: string): void {
    if (!this.hidden.delete(name)) this.hidden.add(name);
    this.applyColours();
    this.emit("classes");
  }

  chooseClass(name: string): void {
    if (this.viewer.selected.size && this.tool === "select") {
      const ids = [...this.viewer.selected].filter((id) => {
        const feature = this.store.shown().get(id);
        return feature && (feature.properties.kind === "object" || feature.properties.kind === "point");
      });
      if (ids.length) this.apply([{ op: "relabel", ids, class: name }]);
    }
    this.activeClass = name;
    this.emit("classes");
  }

  /** A colour that no class has yet. */
  freshColour(): string {
    const used = new Set(this.classes.map(({ colour }) => colour.toLowerCase()));
    return PALETTE.find((one) => !used.has(one)) ?? PALETTE[this.classes.length % PALETTE.length]!;
  }

  /** What has to be done before an object can be drawn: nothing, or making a class for it. */
  withClass(): Op[] {
    if (this.activeClass !== null) return [];
    const made = { name: "Object", colour: this.freshColour() };
    this.setClasses([...this.classes, made]);
    toast("The class is called “Object” for now: rename it in the panel.");
    return [{ op: "class", ...made, rename_from: null }];
  }

  /** Makes a class, or chooses the one that there is; one of labelled pictures is the same in any case. */
  addClass(name: string): void {
    const ofPictures = new Set(this.folders.flatMap(({ classes }) => Object.keys(classes)));
    const isSame = (other: string): boolean => ofPictures.has(other) && other.toLowerCase() === name.toLowerCase();
    const known = this.classes.find((other) => other.name === name) ?? this.classes.find((other) => isSame(other.name));
    if (!known) {
      const made = { name, colour: this.freshColour() };
      this.setClasses([...this.classes, made]);
      this.apply([{ op: "class", ...made, rename_from: null }]);
    }
    this.activeClass = known?.name ?? name;
    this.emit("classes");
  }

  // Labels

  /** Whether the whole image is on the screen, or so much of it that single objects cannot be drawn. */
  get zoomedOut(): boolean {
    return this.viewer.resolution > (this.source.kind === "slide" ? 1.5 : 5) * this.source.work_scale;
  }

  get tally(): Tally {
    return tally(this.store.shown().values());
  }

  /** Patches of labelled pictures that are learned from. */
  get patches(): number {
    return this.folders.reduce((sum, { used, patches }) => sum + (used ? patches.length : 0), 0);
  }

  /** Whether a class is drawn in this image, or shown by labelled pictures that are learned from. */
  isLearned(name: string): boolean {
    return this.tally.byClass.has(name) || this.folders.some(({ used, classes }) => used && name in classes);
  }

  setFolders(folders: Folder[]): void {
    this.folders = folders;
    this.emit("folders");
    this.emit("labels");
  }

  /** Dims what is outside the area. */
  private showArea(): void {
    if (this.viewer.dim(this.store.area)) this.emit("area");
  }

  private redraw(): void {
    this.viewer.show(this.store.shown());
    this.showArea();
    this.emit("labels");
  }

  /** Shows an edit at once and sends it when those before it are through. */
  apply(ops: Op[]): void {
    const { store, source } = this;
    const edit = store.begin(ops);
    this.redraw();
    this.queue = this.queue.then(async () => {
      if (store !== this.store) return;
      const [only] = ops.length === 1 ? ops : [];
      if ((only?.op === "undo" && !store.undo) || (only?.op === "redo" && !store.redo)) {
        store.refused(edit, null); // pressed faster than answered: there is nothing left
        this.redraw();
        return;
      }
      try {
        const answer = await api.ops(source.id, store.revision, store.resolved(edit));
        store.answered(edit, answer);
        this.afterAnswer(answer);
      } catch (error) {
        const labels = error instanceof Refused ? error.labels : null;
        store.refused(edit, labels);
        toast(
          labels
            ? `The labels were changed elsewhere, so the last edit was not applied: ${words(error)}`
            : `Not saved: ${words(error)}`,
          "error",
          mayHelp(error) ? { text: "Try again", run: () => this.apply(ops) } : undefined,
        );
      }
      if (store === this.store) {
        this.redraw();
        void this.catchUp().catch(() => undefined);
      }
    });
  }

  private afterAnswer(answer: OpsAnswer): void {
    if (JSON.stringify(answer.classes) !== JSON.stringify(this.classes)) this.setClasses(answer.classes);
  }

  /** Takes an answer that came by another way than `apply`, such as accepting a found object. */
  async take(ask: () => Promise<OpsAnswer>, done?: string): Promise<boolean> {
    const { store } = this;
    let ok = false;
    this.queue = this.queue.then(async () => {
      try {
        const answer = await ask();
        if (store !== this.store) return;
        store.answered(null, answer);
        this.afterAnswer(answer);
        ok = true;
        if (done) toast(done);
      } catch (error) {
        toast(words(error), "error");
      }
      if (store === this.store) {
        this.redraw();
        void this.catchUp().catch(() => undefined);
      }
    });
    await this.queue;
    return ok;
  }

  /** The labels of an earlier round again, in all images; a change like any other. */
  async restoreRound(number: number): Promise<void> {
    this.queue = this.queue.then(async () => {
      try {
        await api.restore(number);
        toast(`Back to the labels of round ${number}. Undo takes this back.`);
      } catch (error) {
        toast(words(error), "error");
      }
    });
    await this.queue;
    await this.catchUp(Infinity).catch(() => undefined);
  }

  undo(): void {
    if (this.store.undo || this.store.busy) this.apply([{ op: "undo" }]);
  }

  redo(): void {
    if (this.store.redo || this.store.busy) this.apply([{ op: "redo" }]);
  }

  /** Labels may have changed otherwise, in another window or in the file: the server has said which revision is the newest. */
  async catchUp(revision = this.newest): Promise<void> {
    this.newest = Math.max(this.newest, revision);
    const { store, source } = this;
    const isBehind = (newest: number): boolean =>
      newest > store.revision || (store.missed && newest === store.revision);
    if (store.busy || !isBehind(Math.max(this.newest, store.revision))) return;
    const labels: Labels = await api.labels(source.id);
    if (store !== this.store || store.busy) return;
    this.newest = labels.revision;
    if (!isBehind(labels.revision)) return;
    store.load(labels);
    if (labels.classes.length) this.setClasses(labels.classes);
    this.redraw();
  }

  select(ids: string[], add = false): void {
    const { selected } = this.viewer;
    if (!add) selected.clear();
    for (const id of ids) {
      if (add && selected.has(id)) selected.delete(id);
      else selected.add(id);
    }
    this.viewer.restyle();
    this.emit("selection");
  }

  selection(): Feature[] {
    const shown = this.store.shown();
    return [...this.viewer.selected].flatMap((id) => shown.get(id) ?? []);
  }

  deleteSelected(): void {
    const ids = [...this.viewer.selected];
    if (!ids.length) return;
    this.select([]);
    this.apply([{ op: "delete", ids }]);
  }

  mergeSelected(): void {
    const ids = this.selection()
      .filter(({ properties }) => properties.kind === "object")
      .map(({ id }) => id);
    if (ids.length < 2) {
      toast("Select two or more objects to merge them: Shift-click adds to the selection.");
      return;
    }
    this.select([]);
    this.apply([{ op: "merge", ids }]);
  }

  /** Notes a stroke outside all regions: there, a finished region would teach more. */
  noteStroke(at: XY, isPoint = false): void {
    const inside = [...this.store.shown().values()].some(
      ({ properties, geometry }) => properties.kind === "region" && contains(geometry, at),
    );
    this.lastStroke = inside ? null : at;
    this.lastIsPoint = isPoint;
    this.emit("labels");
  }

  /** Another part of the image is in view, or in the area: what was counted was another one. */
  moved(): void {
    const isCounted = this.settings.preview && this.preview.state !== "empty" && this.preview.revision > 0;
    for (const name of isCounted ? [...this.counts.keys()] : [])
      this.counts.set(name, { count: 0, fraction: 0, truncated: false });
    if (!isCounted) this.counts.clear();
    this.counting = isCounted;
    this.emit("counts");
  }

  // Proposals

  setProposal(proposal: Proposal | null): void {
    this.proposal = proposal;
    this.viewer.proposal.clear();
    this.emit("proposal");
  }

  acceptProposal(): void {
    const { proposal } = this;
    if (!proposal) return;
    const features = proposal.features.map((feature) => ({ ...feature, id: this.store.freshId() }));
    this.setProposal(null);
    this.apply(features.map((feature) => ({ op: "add", feature })));
    if (proposal.kind === "region") {
      const objects = features.length - 1;
      toast(
        `${objects ? `A region with ${plural(objects, "object")}` : "A region"}: outline what is missing. What is not outlined in it counts as background.`,
      );
      this.emit("accepted");
    }
  }

  /** Takes one object out of a proposed region. */
  leaveOut(id: string): void {
    if (!this.proposal) return;
    this.proposal.features = this.proposal.features.filter(
      (feature) => feature.id !== id || feature.properties.kind === "region",
    );
    for (const feature of this.viewer.proposal.getFeatures()) {
      const data = dataOf(feature);
      if (data.id === id && data.properties.kind !== "region") this.viewer.proposal.removeFeature(feature);
    }
    this.emit("proposal");
  }

  // Preview

  get preview(): PreviewStatus {
    return this.previews.get(this.source?.id ?? "") ?? NONE;
  }

  setPreview(source: string, status: PreviewStatus): void {
    this.previews.set(source, status);
    this.emit(source === this.source.id ? "preview" : "sources");
  }

  /** Asks how the preview of the current source stands; one that cannot answer yet has none. */
  async askPreview(): Promise<void> {
    const { id } = this.source;
    try {
      this.setPreview(id, await api.preview(id));
    } catch (error) {
      this.setPreview(id, { ...NONE, message: words(error) });
    }
  }

  previewOf(source: string): PreviewStatus {
    return this.previews.get(source) ?? NONE;
  }

  /** Takes over the working resolution; where it is another one, sources are drawn on as before, at another scale. */
  async setResolution(now: Resolution): Promise<void> {
    const isOther = this.resolution?.factor !== now.factor; // also at first: it may have changed since the page asked
    if (isOther) this.info = await api.info();
    this.resolution = now;
    if (isOther) {
      this.source = this.info.sources.find(({ id }) => id === this.source.id) ?? this.source;
      this.emit("sources");
      this.emit("view");
    }
    this.emit("resolution");
  }

  get worse(): boolean {
    return this.rounds.findLast(({ state }) => state === "done")?.worse ?? false;
  }
}

export function words(error: unknown): string {
  if (error instanceof TypeError)
    return "the server does not answer. Is the terminal in which it was started still open?";
  return error instanceof Error ? error.message : String(error);
}
