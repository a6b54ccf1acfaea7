/** Elements without a framework. Text always goes through textContent. */

type Child = Node | string | number | null | undefined | false;
type Props = Record<string, string | number | boolean | null | undefined | ((event: never) => void)>;

function fill(element: Element, props: Props, children: Child[]): void {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.replace(/^on/, ""), value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false)
      element.append(typeof child === "number" ? String(child) : child);
  }
}

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  fill(element, props, children);
  return element;
}

export function svg(tag: string, props: Props = {}, ...children: Child[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, props, children);
  return element;
}

export function replace(parent: Element, ...children: Child[]): void {
  parent.replaceChildren(
    ...children.filter(
      (child): child is Node | string =>
        child !== null && child !== undefined && child !== false && typeof child !== "number",
    ),
  );
}

/** Line icons on a grid of 24: paths with a stroke, no fill. */
const ICONS: Record<string, string> = {
  select: "M5 3l14 8-6 2-3 6z",
  region: "M4 4h4M16 4h4M4 20h4M16 20h4M4 4v4M20 4v4M4 16v4M20 16v4M12 9v6M9 12h6",
  area: "M4 7l7-3 9 5-2 9-9 2-5-6zM4 21h.01M8 21h.01M21 16v.01M21 20v.01",
  polygon: "M12 3l8 6-3 10H7L4 9zM12 3v.01M20 9v.01M17 19v.01M7 19v.01M4 9v.01",
  lasso:
    "M7 16c-3-1-4-3-4-5 0-4 4-7 9-7s9 3 9 7-4 6.5-9 6.500c-1.500 0-2.500-.2-3.500-.5M7 16a2 2 0 1 0 1.500 2.500c0 1.500-.5 2.500-2 3",
  brush:
    "M20 4l-9 9M11 13c-1.500-1-3.500-.5-4.500 1C5.500 15.500 6 18 4 20c3 .5 6 0 7.500-2 1-1.500 1-3.500-.5-5zM20 4c.5 2-5 8-9 9",
  eraser:
    "M8.500 19.500l-4-4a1.500 1.500 0 0 1 0-2l9-9a1.500 1.500 0 0 1 2 0l5 5a1.500 1.500 0 0 1 0 2l-8 8zM8 10l6.500 6.500M8.500 19.500H20",
  not: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM5.700 5.700l12.600 12.600",
  point: "M12 21s7-6.500 7-11.500a7 7 0 0 0-14 0C5 14.500 12 21 12 21zM12 7v5M9.500 9.500h5",
  wand: "M4 20L15 9M13 7l4 4M18 2v4M16 4h4M20 12v3M18.500 13.500h3M8 3v3M6.500 4.500h3",
  split:
    "M5 5c6 0 8 3 8 7s2 7 6 7M5 19c3 0 5-1 6.500-3M13.500 8C15 6 17 5 19 5M16.500 2.500L19 5l-2.500 2.500M16.500 16.500L19 19l-2.500 2.500",
  undo: "M8 5L4 9l4 4M4 9h10a6 6 0 0 1 0 12h-3",
  redo: "M16 5l4 4-4 4M20 9H10a6 6 0 0 0 0 12h3",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v5M12 7.800v.2",
  help: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM9.500 9.500a2.500 2.500 0 1 1 3.500 2.300c-.7.3-1 .8-1 1.700M12 16.800v.2",
  moon: "M20 14.500A8.500 8.500 0 0 1 9.500 4a8.500 8.500 0 1 0 10.500 10.500z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.500 1.500M17.500 17.500L19 19M5 19l1.500-1.500M17.500 6.500L19 5",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  eye: "M2 12s3.500-7 10-7 10 7 10 7-3.500 7-10 7S2 12 2 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  "eye-off":
    "M4 4l16 16M9.500 5.300A10 10 0 0 1 12 5c6.500 0 10 7 10 7a17 17 0 0 1-3 3.800M6.200 7.200A16 16 0 0 0 2 12s3.500 7 10 7a10 10 0 0 0 4-.8",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  merge: "M9 5a6 6 0 1 0 0 14M15 5a6 6 0 1 1 0 14M9 5h6M9 19h6",
  check: "M4 12.500l5.500 5.500L20 6.500",
  cross: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  play: "M7 4.500l12 7.500-12 7.500z",
  stop: "M6 6h12v12H6z",
  report: "M6 3h9l4 4v14H6zM15 3v4h4M9 12h7M9 16h7",
  layers: "M12 4l9 5-9 5-9-5zM3 14l9 5 9-5",
  warn: "M12 4l9.500 16.500h-19zM12 10v4.500M12 17.500v.2",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  refresh: "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
  finish: "M4 4h16v16H4zM8 12.500l3 3 5.500-6.500",
  filter: "M4 5h16l-6 7.500V19l-4 1.500v-8z",
  down: "M6 9l6 6 6-6",
  target: "M12 5a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM12 2v5M12 17v5M2 12h5M17 12h5",
};

export function icon(name: string, size = 18): SVGElement {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", width: size, height: size, class: "icon", "aria-hidden": "true" },
    svg("path", { d: ICONS[name] ?? "" }),
  );
}

interface ButtonOptions {
  /** The name that is read out and shown in the tooltip. */
  label: string;
  icon?: string;
  text?: string;
  key?: string;
  class?: string;
  id?: string;
  onclick: () => void;
}

export function button({
  label,
  icon: name,
  text,
  key,
  class: kind = "",
  id,
  onclick,
}: ButtonOptions): HTMLButtonElement {
  const words = text ? [h("span", {}, text)] : [];
  return h(
    "button",
    {
      type: "button",
      class: `${text ? "button" : "icon-button"} ${kind}`.trim(),
      "aria-label": label,
      "data-tip": label,
      "data-key": key || null,
      id: id ?? null,
      onclick,
    },
    name ? icon(name) : null,
    ...words,
  );
}

/** One tooltip for the whole page: name and key of what is hovered or focused. */
export function installTooltips(): void {
  const tip = h("div", { class: "tooltip", role: "tooltip", hidden: true });
  document.body.append(tip);
  let timer = 0;
  const hide = (): void => {
    window.clearTimeout(timer);
    tip.hidden = true;
  };
  const show = (element: HTMLElement, delay: number): void => {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => {
      const words = element.dataset["tip"];
      if (!words || !element.isConnected) return;
      const key = element.dataset["key"];
      replace(tip, h("span", {}, words), key ? h("kbd", {}, key) : null);
      tip.hidden = false;
      const box = element.getBoundingClientRect();
      const own = tip.getBoundingClientRect();
      const beside = element.closest("[data-tips=right]") !== null;
      let left = beside ? box.right + 8 : box.left + box.width / 2 - own.width / 2;
      let top = beside ? box.top + box.height / 2 - own.height / 2 : box.bottom + 7;
      if (top + own.height > innerHeight - 4) top = box.top - own.height - 7;
      left = Math.min(Math.max(left, 6), innerWidth - own.width - 6);
      top = Math.max(top, 4);
      tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
    }, delay);
  };
  const at = (event: Event): HTMLElement | null =>
    event.target instanceof Element ? event.target.closest<HTMLElement>("[data-tip]") : null;
  document.addEventListener("pointerover", (event) => {
    const element = at(event);
    if (element) show(element, 350);
    else hide();
  });
  document.addEventListener("focusin", (event) => {
    const element = at(event);
    if (element?.matches(":focus-visible")) show(element, 150);
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("pointerdown", hide, true);
  document.addEventListener("keydown", hide, true);
}

let toasts: HTMLElement | null = null;

/** A message that goes by itself; errors stay longer. */
export function toast(
  message: string,
  kind: "info" | "error" = "info",
  action?: { text: string; run: () => void },
): void {
  toasts ??= document.body.appendChild(h("div", { class: "toasts", role: "status", "aria-live": "polite" }));
  const sentence = message.charAt(0).toUpperCase() + message.slice(1);
  for (const shown of toasts.querySelectorAll(".toast")) if (shown.textContent === sentence) shown.remove();
  const item = h(
    "div",
    { class: `toast ${kind}` },
    icon(kind === "error" ? "warn" : "info", 16),
    h("span", {}, sentence),
  );
  const close = (): void => item.remove();
  if (action)
    item.append(
      h(
        "button",
        { type: "button", class: "button small", "data-tip": action.text, onclick: () => (action.run(), close()) },
        action.text,
      ),
    );
  item.append(
    h(
      "button",
      {
        type: "button",
        class: "icon-button small",
        "aria-label": "Close this message",
        "data-tip": "Close this message",
        onclick: close,
      },
      icon("cross", 14),
    ),
  );
  toasts.append(item);
  while (toasts.childElementCount > 3) toasts.firstElementChild?.remove();
  window.setTimeout(close, kind === "error" ? 9000 : 4500);
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** Calls at most once per `wait` ms, the last time with the latest arguments. */
export function throttle<A extends unknown[]>(run: (...values: A) => void, wait: number): (...values: A) => void {
  let last = 0;
  let timer = 0;
  let next: A | null = null;
  return (...values: A) => {
    next = values;
    if (timer) return;
    const pause = Math.max(0, last + wait - performance.now());
    timer = window.setTimeout(() => {
      timer = 0;
      last = performance.now();
      if (next) run(...next);
    }, pause);
  };
}

export function debounce<A extends unknown[]>(run: (...values: A) => void, wait: number): (...values: A) => void {
  let timer = 0;
  return (...values: A) => {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => run(...values), wait);
  };
}
