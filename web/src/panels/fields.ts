/** Sections, sliders and switches of the panels. */
import { h } from "../dom.ts";

export function section(title: string, ...children: (Node | null)[]): HTMLElement {
  return h("section", { class: "section" }, h("h2", {}, title), ...children);
}

interface SliderOptions {
  label: string;
  key?: string;
  min: number;
  max: number;
  step: number;
  value: number;
  text: (value: number) => string;
  oninput: (value: number) => void;
  id: string;
}

export function slider({ label, key, min, max, step, value, text, oninput, id }: SliderOptions): {
  element: HTMLElement;
  set: (value: number) => void;
} {
  const output = h("output", { for: id }, text(value));
  const input = h("input", {
    type: "range",
    id,
    min,
    max,
    step,
    value: String(value),
    "data-tip": label,
    "data-key": key ?? null,
    oninput: () => {
      output.textContent = text(Number(input.value));
      oninput(Number(input.value));
    },
  });
  const set = (next: number): void => {
    if (document.activeElement !== input || Number(input.value) !== next) input.value = String(next);
    output.textContent = text(next);
  };
  return { element: h("div", { class: "slider" }, h("label", { for: id }, label), input, output), set };
}

export function toggle(
  label: string,
  key: string,
  get: () => boolean,
  set: (on: boolean) => void,
  id: string,
): { element: HTMLElement; sync: () => void } {
  const box = h("input", { type: "checkbox", role: "switch", id, onchange: () => set(box.checked) });
  box.checked = get();
  return {
    element: h(
      "label",
      { class: "toggle", for: id, "data-tip": label, "data-key": key || null },
      box,
      h("span", {}, label),
      key ? h("kbd", {}, key) : null,
    ),
    sync: () => (box.checked = get()),
  };
}
