/** What each key does. */
import type { Answers } from "./answers.ts";
import type { App, Tab } from "./app.ts";
import { toast } from "./dom.ts";
import { commandOf, type Command } from "./keys.ts";
import type { ObjectCard } from "./popup.ts";
import type { Tools } from "./tools.ts";

interface Parts {
  app: App;
  tools: Tools;
  answers: Answers;
  card: ObjectCard;
  help: HTMLDialogElement;
  theme: () => void;
  mapElement: HTMLElement;
}

/** Listens to the keyboard; what is typed into a field stays there. */
export function installKeys({ app, tools, answers, card, help, theme, mapElement }: Parts): void {
  const { viewer } = app;
  const nudge = (value: number, by: number, low: number, high: number): number =>
    Math.min(high, Math.max(low, Number((value + by).toFixed(2))));
  const run = (command: Command): boolean => {
    const { settings } = app;
    if (command.startsWith("tool:")) {
      if (command === "tool:split" && card.open) card.split();
      else app.setTool(command.slice(5) as typeof app.tool);
      return true;
    }
    switch (command) {
      case "undo":
        if (!tools.dropCorner()) app.undo();
        return true;
      case "redo":
        app.redo();
        return true;
      case "delete":
        if (!tools.dropCorner()) app.deleteSelected();
        return true;
      case "merge":
        app.mergeSelected();
        return true;
      case "select-all":
        app.setTool("select");
        app.select(viewer.labelsIn(viewer.view.calculateExtent(viewer.map.getSize())));
        return true;
      case "accept":
        if (app.proposal) {
          app.acceptProposal();
          return true;
        }
        return document.activeElement === mapElement || document.activeElement === document.body
          ? tools.enter()
          : false;
      case "cancel":
        if (card.open) card.close();
        else if (app.proposal) app.setProposal(null);
        else if (!tools.cancel()) {
          if (viewer.selected.size) app.select([]);
          else app.setTool("select");
        }
        return true;
      case "accept-object":
      case "reject-object": {
        const action = command === "accept-object" ? "accept" : "reject";
        if (card.open) card.act(action);
        else {
          const pixel = app.pointer ? viewer.map.getPixelFromCoordinate([app.pointer[0], -app.pointer[1]]) : null;
          const found = pixel ? answers.objectAt(pixel) : null;
          if (found) void card.send(action, found, app.pointer);
          else toast("Point at an outline of the preview first; zoom in if there are none.");
        }
        return true;
      }
      case "finish":
        void tools.finish(app.lastStroke ?? app.pointer ?? viewer.centre());
        return true;
      case "preview":
        app.set({ preview: !settings.preview });
        return true;
      case "outlines":
        app.set({ outlines: !settings.outlines });
        return true;
      case "unsure":
        app.set({ unsure: !settings.unsure });
        return true;
      case "labels":
        app.set({ labels: !settings.labels });
        return true;
      case "lower":
        app.set({ threshold: nudge(settings.threshold, -0.05, 0.02, 0.98) });
        return true;
      case "higher":
        app.set({ threshold: nudge(settings.threshold, 0.05, 0.02, 0.98) });
        return true;
      case "smaller":
        app.set({ radius: nudge(settings.radius, -Math.max(1, Math.round(settings.radius * 0.15)), 1, 100) });
        return true;
      case "larger":
        app.set({ radius: nudge(settings.radius, Math.max(1, Math.round(settings.radius * 0.15)), 1, 100) });
        return true;
      case "zoom-in":
        viewer.zoom(2);
        return true;
      case "zoom-out":
        viewer.zoom(0.5);
        return true;
      case "fit":
        viewer.fit();
        return true;
      case "back":
        viewer.back();
        return true;
      case "next-source":
        void app.step(1);
        return true;
      case "previous-source":
        void app.step(-1);
        return true;
      case "suggest":
        app.setTab("improve");
        document.dispatchEvent(new Event("fewscope-suggest"));
        return true;
      case "tab-label":
      case "tab-improve":
      case "tab-run":
      case "tab-results":
        app.setTab(command.slice(4) as Tab);
        return true;
      case "theme":
        theme();
        return true;
      case "help":
        help.open ? help.close() : help.showModal();
        return true;
      default:
        return false;
    }
  };
  const types = (target: EventTarget | null): boolean =>
    target instanceof HTMLElement &&
    (target.isContentEditable ||
      target instanceof HTMLTextAreaElement ||
      target instanceof HTMLSelectElement ||
      (target instanceof HTMLInputElement && ["text", "number", "search"].includes(target.type)));
  window.addEventListener("keydown", (event) => {
    if (event.key === " " && (event.target === mapElement || event.target === document.body)) {
      viewer.spaceDown = true;
      mapElement.dataset["space"] = "";
      event.preventDefault();
      return;
    }
    if (types(event.target)) {
      if (event.key === "Escape") (event.target as HTMLElement).blur();
      return;
    }
    if (help.open) {
      if (event.key === "?" || event.key === "h") help.close();
      return;
    }
    if (/^[1-9]$/.test(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey) {
      const chosen = app.classes[Number(event.key) - 1];
      if (chosen) app.chooseClass(chosen.name);
      return;
    }
    const onControl =
      event.target instanceof HTMLElement && event.target.closest("button, a, input, summary, tr[tabindex]") !== null;
    if (
      onControl &&
      (event.key === "Enter" || event.key === " ") &&
      !(event.key === "Enter" && app.proposal && !event.target.closest(".bars, .card"))
    )
      return;
    const command = commandOf(event);
    if (command && run(command)) event.preventDefault();
  });
  // a cross in the middle, where Enter draws, for those who move by keys
  window.addEventListener("keydown", (event) => {
    if (event.target === mapElement && event.key.startsWith("Arrow")) mapElement.dataset["keys"] = "";
  });
  for (const gone of ["pointermove", "blur"])
    mapElement.addEventListener(gone, () => delete mapElement.dataset["keys"]);
  window.addEventListener("keyup", (event) => {
    if (event.key !== " ") return;
    viewer.spaceDown = false;
    delete mapElement.dataset["space"];
  });
  window.addEventListener("blur", () => {
    viewer.spaceDown = false;
    delete mapElement.dataset["space"];
  });
}
