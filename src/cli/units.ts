import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";

const binaryUnits: readonly string[] = ["", "K", "M", "G", "T"];

/** `512`, `64M`, `10G` → bytes. Suffixes K, M, G, T are powers of 1024, in either case. Throws `usage`; zero is refused. */
export function parseSizeBytes(text: string, name: string): number {
  const match = /^(\d{1,16})([KMGT]?)$/i.exec(text);
  const power = binaryUnits.indexOf(match?.[2]?.toUpperCase() ?? "");
  const sizeBytes = match === null ? Number.NaN : Number(match[1]) * 1024 ** power;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
    throw new OcifsError("usage", `${name}: got "${text}", want a size above zero such as 512M, 10G or 1T`);
  }
  return sizeBytes;
}

const millisecondsByUnit: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** `30`, `30s`, `2m`, `1h`, `500ms` → milliseconds; a bare number counts seconds. Throws `usage`; zero is refused. */
export function parseDurationMs(text: string, name: string): number {
  const match = /^(\d{1,12})(ms|s|m|h)?$/.exec(text);
  const durationMs = Number(match?.[1]) * (millisecondsByUnit[match?.[2] ?? "s"] ?? Number.NaN);
  if (match === null || durationMs <= 0 || durationMs > limits.timeoutMs) {
    throw new OcifsError(
      "usage",
      `${name}: got "${text}", want a time above zero and up to ${limits.timeoutMs / 3_600_000}h such as 30, 30s or 2m`,
    );
  }
  return durationMs;
}

/** Bytes for people: `0 B`, `1.5 KiB`, `27.4 MiB`. Three significant digits at most. */
export function formatSize(sizeBytes: number): string {
  let value = sizeBytes;
  let power = 0;
  // 1023.5 would be printed as "1024 KiB"; move on to the next unit before that.
  while (value >= 1023.5 && power < binaryUnits.length - 1) {
    value /= 1024;
    power += 1;
  }
  if (power === 0) return `${value} B`;
  return `${value < 99.95 ? value.toFixed(1) : value.toFixed(0)} ${binaryUnits[power]}iB`;
}

/** Milliseconds for people: `420 ms`, `3.2 s`, `2 m 05 s`, `1 h 02 m`. */
export function formatDuration(durationMs: number): string {
  if (durationMs < 999.5) return `${Math.round(durationMs)} ms`;
  if (durationMs < 59_950) return `${(durationMs / 1000).toFixed(1)} s`;
  const seconds = Math.round(durationMs / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${String(seconds % 60).padStart(2, "0")} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} m`;
}
