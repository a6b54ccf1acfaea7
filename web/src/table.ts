/** Tables of instances as the server sends them, and their words. */
import { short } from "./charts.ts";
import type { Cell, Column } from "./types.ts";

export function nameOf(column: Column): string {
  return typeof column === "string" ? column : column.name;
}

export function record(row: Cell[] | Record<string, Cell>, columns: Column[]): Record<string, Cell> {
  return Array.isArray(row) ? Object.fromEntries(columns.map((column, i) => [nameOf(column), row[i] ?? null])) : row;
}

export function cellText(value: Cell): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : short(value);
  return String(value);
}

/** Names of columns as people read them. */
export function heading(name: string): string {
  return name
    .replace(/_(um2|m2|px|um|m)$/, (_, unit: string) => ` (${unit.replace("um", "µm").replace("2", "²")})`)
    .replaceAll("_", " ");
}
