/** Labelled pictures that are learned from beside what is drawn: a list with thumbnails, each folder with a switch. */
import { api } from "../api.ts";
import { words, type App } from "../app.ts";
import { h, icon, plural, replace, toast } from "../dom.ts";
import type { Folder } from "../types.ts";
import { section } from "./fields.ts";
import { chip } from "./toolbar.ts";

/** Classes of a folder with the number of patches that show them, in words. */
export function classesText(folder: Folder): string {
  const classes = Object.entries(folder.classes);
  return classes.length === 1
    ? classes[0]![0]
    : classes.map(([name, n]) => `${name} in ${n.toLocaleString("en")}`).join(", ");
}

export function foldersSection(app: App): HTMLElement | null {
  if (!app.folders.length) return null;
  const list = h("div", { class: "folders" });
  const large = new Set<string>();
  const draw = (): void => {
    replace(list, ...app.folders.map((folder) => row(app, folder, large, draw)));
  };
  app.on(["folders", "classes"], draw);
  draw();
  return section("Labelled pictures", list);
}

function row(app: App, folder: Folder, large: Set<string>, redraw: () => void): HTMLElement {
  const id = `folder-${folder.number}`;
  const box = h("input", {
    type: "checkbox",
    role: "switch",
    id,
    onchange: () => {
      void api
        .switchFolder(folder.number, box.checked)
        .then((folders) => app.setFolders(folders))
        .catch((error: unknown) => {
          toast(words(error), "error");
          redraw();
        });
    },
  });
  box.checked = folder.used;
  // the colours are in the address, so that a picture is asked for again when one is changed
  const colours = app.classes.map(({ colour }) => colour.slice(1)).join("");
  const thumbnails = folder.patches.map((name, patch) => {
    const key = `${folder.number}/${patch}`;
    return h(
      "button",
      {
        type: "button",
        class: `patch${large.has(key) ? " large" : ""}`,
        "aria-label": `${name}, ${large.has(key) ? "smaller" : "larger"}`,
        "data-tip": name,
        onclick: () => {
          if (!large.delete(key)) large.add(key);
          redraw();
        },
      },
      h("img", { src: `/api/folders/${key}.png?${colours}`, alt: "", loading: "lazy" }),
    );
  });
  return h(
    "div",
    { class: `folder${folder.used ? "" : " off"}` },
    h(
      "label",
      { class: "toggle", for: id, "data-tip": `${folder.uri}: learned from, or not` },
      box,
      h("strong", { class: "ellipsis" }, folder.name),
      h("span", { class: "quiet number" }, plural(folder.patches.length, "patch", "patches")),
    ),
    h(
      "div",
      { class: "folder-classes quiet" },
      ...Object.keys(folder.classes).map((name) => chip(name)),
      Object.keys(folder.classes).length > 1 ? h("span", {}, classesText(folder)) : null,
    ),
    h("div", { class: "patches" }, ...thumbnails),
    ...folder.notes.map((note) => h("p", { class: "notice" }, icon("info", 16), h("span", {}, note))),
  );
}
