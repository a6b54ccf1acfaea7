/** The help overlay. */
import { button, h } from "../dom.ts";
import { BINDINGS, keyCap, OTHER_KEYS } from "../keys.ts";

/** The list of all keys, as a dialog. */
export function helpDialog(): HTMLDialogElement {
  const groups = ["Draw", "Edit", "Preview", "View", "Page"] as const;
  const rows = (group: (typeof groups)[number]): HTMLElement[] =>
    [
      ...BINDINGS.filter((one) => one.group === group).map(({ keys, text }) => ({ keys: keys.map(keyCap), text })),
      ...OTHER_KEYS.filter((one) => one.group === group),
    ].map(({ keys, text }) =>
      h(
        "div",
        { class: "key-row" },
        h("span", { class: "caps" }, ...keys.map((key) => h("kbd", {}, key))),
        h("span", {}, text),
      ),
    );
  const dialog = h(
    "dialog",
    { class: "help", "aria-labelledby": "help-title" },
    h(
      "header",
      {},
      h("h2", { id: "help-title" }, "Keys"),
      button({ label: "Close", icon: "cross", onclick: () => dialog.close() }),
    ),
    h(
      "p",
      { class: "lead" },
      "Outline a few objects, look at the preview, finish a region that it fills in, correct the worst place, repeat; then run the whole image. Every edit is saved at once, and undo knows no limit.",
    ),
    h("div", { class: "help-columns" }, ...groups.map((group) => h("section", {}, h("h3", {}, group), ...rows(group)))),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return dialog;
}
