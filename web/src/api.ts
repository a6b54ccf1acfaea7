/** Requests to the server that sent this page; nothing is ever asked of another host. */
import type {
  Box,
  ClassInfo,
  Feature,
  Folder,
  Histogram,
  Info,
  Labels,
  Op,
  OpsAnswer,
  Outlines,
  PreviewStatus,
  Resolution,
  Round,
  Run,
  ServerEvent,
  SourceInfo,
  Suggestion,
  Table,
  XY,
} from "./types.ts";

/** An answer other than success; `labels` are the current ones where the server refused an edit made on older ones. */
export class Refused extends Error {
  readonly status: number;
  readonly labels: Labels | null;
  constructor(status: number, message: string, labels: Labels | null = null) {
    super(message);
    this.status = status;
    this.labels = labels;
  }
}

/** Whether the same request may succeed another time: it does not where the server did not take it for what it is. */
export function mayHelp(error: unknown): boolean {
  return !(error instanceof Refused) || error.status >= 500;
}

type Query = Record<string, string | number | boolean | null | undefined>;

export function query(path: string, values: Query = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

async function answer<T>(response: Response): Promise<T> {
  if (response.status === 204) return undefined as T;
  const text = await response.text();
  let body: unknown = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    body = null;
  }
  if (!response.ok) {
    const said = body as { error?: string; message?: string; labels?: Labels } | null;
    const message = said?.error ?? said?.message ?? (text.length < 300 && body === null ? text : "");
    const labels =
      response.status === 409
        ? (said?.labels ?? (said && "features" in said ? (said as unknown as Labels) : null))
        : null;
    throw new Refused(response.status, message || `the server answered ${response.status}`, labels);
  }
  return body as T;
}

async function get<T>(path: string, values: Query = {}, signal?: AbortSignal): Promise<T> {
  return answer<T>(
    await fetch(query(path, values), { headers: { Accept: "application/json" }, ...(signal ? { signal } : {}) }),
  );
}

async function send<T>(method: string, path: string, body: unknown): Promise<T> {
  const headers = { "Content-Type": "application/json", "X-Fewscope": "1" };
  return answer<T>(await fetch(path, { method, headers, body: body === undefined ? null : JSON.stringify(body) }));
}

export interface ObjectAction {
  source: string;
  x: number;
  y: number;
  threshold: number;
  action: "accept" | "reject" | "relabel" | "split";
  class: string | null;
  line: XY[] | null;
}

export const api = {
  info: () => get<Info>("/api/info"),
  labels: (source: string) => get<Labels>("/api/labels", { source }),
  ops: (source: string, revision: number, ops: Op[]) =>
    send<OpsAnswer>("POST", "/api/labels/ops", { source, revision, ops }),
  view: (source: string, box: Box, pointer: XY | null) => send<void>("POST", "/api/view", { source, box, pointer }),
  preview: (source: string) => get<PreviewStatus>("/api/preview", { source }),
  outlines: (source: string, name: string, threshold: number, [x0, y0, x1, y1]: Box, signal: AbortSignal) =>
    get<Outlines>("/api/outlines", { source, class: name, threshold, x0, y0, x1, y1 }, signal),
  wand: (source: string, x: number, y: number, name: string) =>
    send<{ feature: Feature | null }>("POST", "/api/wand", { source, x, y, class: name }),
  propose: (source: string, x: number, y: number) =>
    send<{ features: Feature[] }>("POST", "/api/propose", { source, x, y }),
  proposeBox: (source: string, box: Box) => send<{ features: Feature[] }>("POST", "/api/propose", { source, box }),
  object: (body: ObjectAction) => send<OpsAnswer>("POST", "/api/object", body),
  rounds: () => get<Round[]>("/api/rounds"),
  restore: (number: number) => send<OpsAnswer>("POST", `/api/rounds/${number}/restore`, {}),
  suggest: (source: string) => get<Suggestion[]>("/api/suggest", { source }),
  folders: () => get<Folder[]>("/api/folders"),
  switchFolder: (number: number, used: boolean) => send<Folder[]>("POST", "/api/folders", { number, used }),
  resolution: () => get<Resolution>("/api/resolution"),
  chooseResolution: (factor: number) => send<Resolution>("POST", "/api/resolution", { factor }),
  lonlat: (source: string, x: number, y: number) =>
    get<{ lon: number; lat: number } | null>("/api/lonlat", { source, x, y }),
  runs: () => get<Run[]>("/api/runs"),
  run: (id: string) => get<Run>(`/api/runs/${encodeURIComponent(id)}`),
  start: (body: { sources: string[]; workers: number | null; address: string | null; adapt_s: number | null }) =>
    send<{ id: string; commands: string[] }>("POST", "/api/runs", body),
  cancel: (id: string) => send<void>("DELETE", `/api/runs/${encodeURIComponent(id)}`, undefined),
  table: (id: string, values: Query) => get<Table>(`/api/runs/${encodeURIComponent(id)}/table`, values),
  histogram: (id: string, values: Query) => get<Histogram>(`/api/runs/${encodeURIComponent(id)}/histogram`, values),
  at: (id: string, source: string, x: number, y: number) =>
    get<Record<string, string | number | null> | null>(`/api/runs/${encodeURIComponent(id)}/at`, { source, x, y }),
  exportUrl: (id: string, values: Query) => query(`/api/runs/${encodeURIComponent(id)}/export`, values),
};

/** Address of the whole image, small; it may be kept for good. */
export function thumbnailOf({ id, key }: SourceInfo): string {
  return query(`/tile/thumbnail/${encodeURIComponent(id)}.jpg`, { v: key });
}

/** Listens to the server's events and comes back by itself after a break; `onLink` is told when the link comes and goes. */
export function listen(onEvent: (event: ServerEvent) => void, onLink: (up: boolean) => void): () => void {
  const stream = new EventSource("/api/events");
  stream.onopen = () => onLink(true);
  stream.onerror = () => onLink(false);
  stream.onmessage = (message: MessageEvent<string>) => {
    try {
      onEvent(JSON.parse(message.data) as ServerEvent);
    } catch {
      // a line that is no JSON says nothing to the page
    }
  };
  return () => stream.close();
}

export type { ClassInfo };
