/** All keys of the page, once: the tooltips, the help and the handler read this table. */

export type ToolName =
  "select" | "region" | "area" | "polygon" | "lasso" | "brush" | "eraser" | "not" | "point" | "wand" | "split";

export type Command =
  | `tool:${ToolName}`
  | "undo"
  | "redo"
  | "delete"
  | "accept"
  | "cancel"
  | "merge"
  | "finish"
  | "preview"
  | "outlines"
  | "unsure"
  | "labels"
  | "smaller"
  | "larger"
  | "lower"
  | "higher"
  | "zoom-in"
  | "zoom-out"
  | "fit"
  | "accept-object"
  | "reject-object"
  | "help"
  | "theme"
  | "next-source"
  | "previous-source"
  | "tab-label"
  | "tab-improve"
  | "tab-run"
  | "tab-results"
  | "suggest"
  | "select-all"
  | "back";

export interface Binding {
  command: Command;
  keys: string[];
  group: "Draw" | "Edit" | "Preview" | "View" | "Page";
  text: string;
}

export const BINDINGS: Binding[] = [
  { command: "tool:select", keys: ["v"], group: "Draw", text: "Select and move about; Shift adds to the selection" },
  {
    command: "tool:region",
    keys: ["r"],
    group: "Draw",
    text: "Region: click for one window, drag for any size, Enter for the middle of the view",
  },
  {
    command: "tool:area",
    keys: ["i"],
    group: "Draw",
    text: "Area that is segmented: click corners, or drag round it; inside an area it is a hole",
  },
  { command: "tool:polygon", keys: ["p"], group: "Draw", text: "Polygon: click corners, double-click or Enter closes" },
  { command: "tool:lasso", keys: ["l"], group: "Draw", text: "Lasso: draw round one whole object" },
  {
    command: "tool:brush",
    keys: ["b"],
    group: "Draw",
    text: "Brush: paint an object, or a part of a large one; starts inside one to extend it",
  },
  { command: "tool:eraser", keys: ["e"], group: "Draw", text: "Eraser: take away from objects" },
  { command: "tool:not", keys: ["n"], group: "Draw", text: "“Not this”: a stroke over background" },
  {
    command: "tool:point",
    keys: ["t"],
    group: "Draw",
    text: "Point: one click on each object in a region; on a point removes it; Shift-click on background",
  },
  { command: "tool:wand", keys: ["w"], group: "Draw", text: "Magic wand: click, then Enter accepts the outline" },
  { command: "smaller", keys: ["["], group: "Draw", text: "Smaller brush" },
  { command: "larger", keys: ["]"], group: "Draw", text: "Larger brush" },
  { command: "undo", keys: ["Ctrl+z"], group: "Edit", text: "Undo" },
  { command: "redo", keys: ["Ctrl+Shift+z", "Ctrl+y"], group: "Edit", text: "Redo" },
  {
    command: "delete",
    keys: ["Delete", "Backspace"],
    group: "Edit",
    text: "Delete what is selected; while drawing a polygon, its last corner",
  },
  { command: "merge", keys: ["m"], group: "Edit", text: "Merge the selected objects" },
  { command: "tool:split", keys: ["s"], group: "Edit", text: "Split the selected object along a line" },
  { command: "select-all", keys: ["Ctrl+a"], group: "Edit", text: "Select everything in view" },
  { command: "accept", keys: ["Enter"], group: "Edit", text: "Accept the proposal, close the polygon" },
  {
    command: "cancel",
    keys: ["Escape"],
    group: "Edit",
    text: "Discard the proposal, stop drawing, clear the selection",
  },
  { command: "accept-object", keys: ["a"], group: "Preview", text: "Accept the found object under the pointer" },
  { command: "reject-object", keys: ["x"], group: "Preview", text: "Reject the found object under the pointer" },
  {
    command: "finish",
    keys: ["f"],
    group: "Preview",
    text: "Finish a region: a square filled in by the preview, to correct and accept",
  },
  { command: "preview", keys: ["o"], group: "Preview", text: "Show or hide the preview" },
  { command: "outlines", keys: ["k"], group: "Preview", text: "Show or hide the outlines of what was found" },
  { command: "unsure", keys: ["u"], group: "Preview", text: "Show or hide where the preview is unsure" },
  { command: "lower", keys: [","], group: "Preview", text: "Lower threshold" },
  { command: "higher", keys: ["."], group: "Preview", text: "Higher threshold" },
  { command: "suggest", keys: ["g"], group: "Preview", text: "Gallery of what to label next" },
  { command: "labels", keys: ["j"], group: "View", text: "Show or hide what is drawn" },
  { command: "zoom-in", keys: ["+", "="], group: "View", text: "Zoom in" },
  { command: "zoom-out", keys: ["-"], group: "View", text: "Zoom out" },
  { command: "fit", keys: ["0"], group: "View", text: "The whole image" },
  { command: "next-source", keys: ["PageDown"], group: "View", text: "Next slide or raster" },
  { command: "previous-source", keys: ["PageUp"], group: "View", text: "Previous slide or raster" },
  { command: "back", keys: ["Alt+ArrowLeft"], group: "View", text: "Back to the last place" },
  { command: "tab-label", keys: ["F6"], group: "Page", text: "Panel: Label" },
  { command: "tab-improve", keys: ["F7"], group: "Page", text: "Panel: Improve" },
  { command: "tab-run", keys: ["F8"], group: "Page", text: "Panel: Run" },
  { command: "tab-results", keys: ["F9"], group: "Page", text: "Panel: Results" },
  { command: "theme", keys: ["d"], group: "Page", text: "Dark or light" },
  { command: "help", keys: ["?", "h"], group: "Page", text: "This list" },
];

/** Keys that have no command of their own, for the help only. */
export const OTHER_KEYS: { keys: string[]; group: Binding["group"]; text: string }[] = [
  { keys: ["1 … 9"], group: "Draw", text: "Class; with a selection: relabel it" },
  {
    keys: ["Alt + click"],
    group: "Edit",
    text: "On a corner of the selected outline: takes it out; drag corners or edges to move them",
  },
  { keys: ["Shift + drag"], group: "Edit", text: "With the select tool: everything in a box" },
  { keys: ["Space + drag"], group: "View", text: "Move about with any tool (also the middle button)" },
  { keys: ["Arrow keys"], group: "View", text: "Move the view" },
  { keys: ["Wheel"], group: "View", text: "Zoom" },
];

interface Pressed {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  shiftKey: boolean;
  altKey: boolean;
}

/** The way a pressed key is written in the table. */
export function written({ key, ctrlKey, metaKey, shiftKey, altKey }: Pressed): string {
  const letter = key.length === 1 ? key.toLowerCase() : key;
  const isLetter = /^[a-z]$/.test(letter);
  return `${ctrlKey || metaKey ? "Ctrl+" : ""}${altKey ? "Alt+" : ""}${shiftKey && (isLetter || key.length > 1) ? "Shift+" : ""}${letter}`;
}

const byKey = new Map(BINDINGS.flatMap(({ command, keys }) => keys.map((key) => [key, command] as const)));

export function commandOf(pressed: Pressed): Command | null {
  return byKey.get(written(pressed)) ?? null;
}

const WORDS: Record<string, string> = {
  Escape: "Esc",
  Delete: "Del",
  ArrowLeft: "←",
  PageDown: "Page ↓",
  PageUp: "Page ↑",
  Backspace: "⌫",
};

/** A key as it is printed on a key cap. */
export function keyCap(key: string): string {
  return key
    .split(/\+(?=.)/)
    .map((part) => WORDS[part] ?? (part.length === 1 ? part.toUpperCase() : part))
    .join(" ");
}

/** The first key of a command, for tooltips. */
export function keyOf(command: Command): string {
  const binding = BINDINGS.find((other) => other.command === command);
  return binding ? keyCap(binding.keys[0]!) : "";
}
