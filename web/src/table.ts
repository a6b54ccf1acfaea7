/** Tables of instances as the server sends them, and their words. */
import type { Cell, Column } from "./types.ts";

export function nameOf(column: Column): string {
  return typeof column === "string" ? column : column.name;
}

export function record(row: Cell[] | Record<string, Cell>, columns: Column[]): Record<string, Cell> {
  return Array.isArray(row) ? Object.fromEntries(columns.map((column, i) => [nameOf(column), row[i] ?? null])) : row;
}

/** The column that filters of area mean: on the ground where that is known, in px otherwise. */
export function areaOf(names: readonly string[]): string | undefined {
  return ["area_um2", "area_px"].find((name) => names.includes(name));
}

/** The words of a cell. In degrees, a coordinate has five decimals: one metre. */
export function cellText(value: Cell, column = "", unit: string | null = null): string {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (unit === "degree" && (column === "x" || column === "y")) return value.toFixed(5);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  if (Math.abs(value) >= 100) return value.toLocaleString("en", { maximumFractionDigits: 1 });
  return String(Number(value.toPrecision(3)));
}

/** Columns that only say where an instance is in the page's own frame. */
export const PLACE = ["image_x", "image_y"];

/** Names of columns as people read them. */
export function heading(name: string): string {
  return name
    .replace(/_(um2|m2|px|um|m)$/, (_, unit: string) => ` (${unit.replace("um", "µm").replace("2", "²")})`)
    .replaceAll("_", " ");
}
