/** Bars that float over the map. */
import type { App } from "../app.ts";
import { button, h, plural, replace } from "../dom.ts";
import { keyOf } from "../keys.ts";
import type { Tools } from "../tools.ts";
import { resolutionBar } from "./resolution.ts";

/** Bars over the map: the resolution, the proposal, the selection, "finish this region". */
export function bars(app: App, tools: Tools): HTMLElement {
  const proposal = h("div", {
    class: "float bar",
    hidden: true,
    id: "proposal-bar",
    role: "group",
    "aria-label": "Proposal",
  });
  const selection = h("div", {
    class: "float bar",
    hidden: true,
    id: "selection-bar",
    role: "group",
    "aria-label": "Selection",
  });
  const finish = h("div", {
    class: "float bar",
    hidden: true,
    id: "finish-bar",
    role: "group",
    "aria-label": "After a stroke",
  });
  app.on("proposal", () => {
    const now = app.proposal;
    proposal.hidden = !now;
    if (!now) return;
    const objects = now.features.filter(({ properties }) => properties.kind !== "region").length;
    replace(
      proposal,
      h("strong", {}, now.kind === "wand" ? "Proposed outline" : `Region with ${plural(objects, "object")}`),
      now.kind === "region" ? h("span", { class: "quiet" }, "click an object to leave it out") : null,
      button({
        label: "Accept the proposal",
        text: "Accept",
        icon: "check",
        key: keyOf("accept"),
        class: "primary small",
        id: "accept",
        onclick: () => app.acceptProposal(),
      }),
      button({
        label: "Discard the proposal",
        text: "Discard",
        icon: "cross",
        key: keyOf("cancel"),
        class: "small",
        id: "discard",
        onclick: () => app.setProposal(null),
      }),
    );
  });
  app.on(["selection", "labels", "classes"], () => {
    const chosen = app.selection();
    selection.hidden = chosen.length === 0 || app.tool !== "select";
    if (selection.hidden) return;
    const objects = chosen.filter(({ properties }) => properties.kind === "object");
    const names = new Set(objects.map(({ properties }) => properties.class));
    const what =
      chosen.length === 1
        ? {
            region: "Region",
            object: "Object",
            ignore: "Ignored area",
            not: "“Not this”",
            point: "Point",
            area: chosen[0]!.properties.negative ? "Hole of the area" : "Area",
          }[chosen[0]!.properties.kind]
        : `${chosen.length} selected`;
    const relabel = h(
      "select",
      {
        "aria-label": "Class of the selection",
        "data-tip": "Class of the selection",
        "data-key": "1 … 9",
        onchange: () => app.apply([{ op: "relabel", ids: objects.map(({ id }) => id), class: relabel.value }]),
      },
      names.size > 1 ? h("option", { value: "", selected: true, disabled: true }, "several classes") : null,
      ...app.classes.map(({ name }) =>
        h("option", { value: name, selected: names.size === 1 && names.has(name) }, name),
      ),
    );
    replace(
      selection,
      h("strong", {}, what),
      objects.length ? relabel : null,
      objects.length > 1
        ? button({
            label: "Merge the selected objects",
            text: "Merge",
            icon: "merge",
            key: keyOf("merge"),
            class: "small",
            onclick: () => app.mergeSelected(),
          })
        : null,
      objects.length === 1 && chosen.length === 1
        ? button({
            label: "Split along a line",
            text: "Split",
            icon: "split",
            key: keyOf("tool:split"),
            class: "small",
            onclick: () => app.setTool("split"),
          })
        : null,
      button({
        label: "Delete the selection",
        text: "Delete",
        icon: "trash",
        key: keyOf("delete"),
        class: "small",
        onclick: () => app.deleteSelected(),
      }),
    );
  });
  app.on(["labels", "tool", "proposal", "preview", "source"], () => {
    const { regions, objects, points, strokes } = app.tally;
    const early = (regions === 0 && objects + strokes < 3 && !app.patches) || app.preview.state === "empty";
    const point = app.lastIsPoint && points > 0;
    finish.hidden = (early && !point) || !app.lastStroke || app.proposal !== null || app.viewer.selected.size > 0;
    if (finish.hidden) return;
    replace(
      finish,
      h(
        "span",
        {},
        point
          ? "Points teach in a region, in which every object is marked:"
          : "This corrects only this place. To improve the result everywhere:",
      ),
      point
        ? button({
            label: "A region around the last point; mark every object in it",
            text: "Region here",
            icon: "region",
            class: "primary small",
            id: "region-here",
            onclick: () => tools.region(null, app.lastStroke ?? app.viewer.centre()),
          })
        : null,
      point
        ? null
        : button({
            label: "A square around the last label, filled in by the preview, for you to complete",
            text: "Finish a region here",
            icon: "finish",
            key: keyOf("finish"),
            class: "primary small",
            onclick: () => void tools.finish(app.lastStroke ?? app.viewer.centre()),
          }),
      button({
        label: "Not now",
        icon: "cross",
        class: "small",
        onclick: () => {
          app.lastStroke = null;
          app.emit("labels");
        },
      }),
    );
  });
  return h("div", { class: "bars" }, resolutionBar(app), proposal, selection, finish);
}
