import { type Figure, type Summary, summarize, type Unit } from "./figures.js";
import type { Machine } from "./machine.js";
import type { DaemonUse } from "./mounts.js";

/** What the daemons of one workload's mounts used, each from its start to its unmount. */
export interface DaemonSummary {
  readonly workload: string;
  readonly cpuMs: Summary;
  readonly rssBytes: Summary;
  readonly peakRssBytes: Summary;
}

export interface Report {
  readonly startedAt: string;
  readonly repeats: number;
  readonly driver: string;
  readonly machine: Machine;
  /** How caches were made cold. */
  readonly cachesEmptied: string;
  /** Of the last 1, 5 and 15 minutes, at the end: far above the number of cores, somebody else was measured too. */
  readonly loads: readonly number[];
  readonly figures: readonly Figure[];
  readonly daemons: readonly DaemonSummary[];
  readonly skipped: readonly { readonly workload: string; readonly reason: string }[];
  /** Workloads that gave wrong bytes or an error. */
  readonly failures: readonly { readonly workload: string; readonly message: string }[];
}

export function summarizeDaemons(workload: string, used: readonly DaemonUse[]): DaemonSummary[] {
  if (used.length === 0) return [];
  const of = (key: keyof DaemonUse) => summarize(used.map((use) => use[key]));
  return [{ workload, cpuMs: of("cpuMs"), rssBytes: of("rssBytes"), peakRssBytes: of("peakRssBytes") }];
}

/** Few enough digits to read, enough to compare. */
function formatNumber(value: number): string {
  if (Number.isInteger(value)) return String(value);
  if (Math.abs(value) >= 100) return value.toFixed(0);
  return value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}

function formatSummary(summary: Summary, unit: Unit | "s"): string {
  const { median, min, max } = summary;
  const spread = min === max ? "" : ` (${formatNumber(min)}–${formatNumber(max)})`;
  return `${formatNumber(median)}${spread} ${unit}`;
}

function formatRatio({ median, min, max }: Summary): string {
  return `${median.toFixed(2)} ×${min === max ? "" : ` (${min.toFixed(2)}–${max.toFixed(2)})`}`;
}

function scaled(summary: Summary, factor: number): Summary {
  return summarize(summary.values.map((value) => value * factor));
}

/** The report as Markdown: what was promised, all figures, daemons, and how each figure was taken. */
export function formatMarkdown(report: Report): string {
  const { machine } = report;
  const versions = Object.entries(machine.versions).map(([name, version]) => `${name}: ${version}`);
  const out = [
    `${report.startedAt}, driver ${report.driver}, Linux ${machine.kernel}, ${machine.cores} × ${machine.cpu}, ` +
      `${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, load ${report.loads.map((load) => load.toFixed(1)).join(" ")}; ` +
      `${report.repeats} repeats, medians (min–max). Ratios are "times as good as the reference": above 1 ocifs is better.`,
    "",
  ];
  const held = report.figures.filter((figure) => figure.want !== undefined);
  if (held.length > 0) {
    const missed = held.filter((figure) => figure.want?.met === false).length;
    out.push(`Promised: ${held.length} figures, ${missed} missed.`, "");
  }
  out.push(...table(["workload", "figure", "ocifs", "reference", "ratio", "want"], report.figures.map(toRow)), "");
  if (report.daemons.length > 0) {
    const head = ["daemons of", "mounts", "processor time", "RSS at the end", "peak RSS"];
    out.push(...table(head, report.daemons.map(toDaemonRow)), "");
  }
  out.push("How each was taken:", "");
  const taken = new Set(
    report.figures.map(({ workload, command, note }) => `- ${workload}: \`${command}\`${note ? `. ${note}` : ""}`),
  );
  out.push(...taken, "", `Caches were emptied by: ${report.cachesEmptied}.`, `Versions: ${versions.join("; ")}.`);
  out.push(`Other tools on PATH: ${machine.otherTools.join(", ") || "none"}.`, "");
  for (const { workload, reason } of report.skipped) out.push(`Skipped: ${workload}: ${reason}`, "");
  if (report.failures.length > 0) {
    out.push("FAILED:", "", ...report.failures.map((failure) => `- ${failure.workload}: ${failure.message}`), "");
  }
  return out.join("\n");
}

function toRow(figure: Figure): string[] {
  const { workload, name, unit, ocifs, reference, ratio, want } = figure;
  return [
    workload,
    name,
    formatSummary(ocifs, unit),
    reference === undefined ? "" : `${reference.name}: ${formatSummary(reference.summary, unit)}`,
    ratio === undefined ? "" : formatRatio(ratio),
    want === undefined ? "" : `${want.text}: ${want.met ? "met" : "MISSED"}`,
  ];
}

function toDaemonRow(daemon: DaemonSummary): string[] {
  return [
    daemon.workload,
    String(daemon.cpuMs.values.length),
    formatSummary(scaled(daemon.cpuMs, 1e-3), "s"),
    formatSummary(scaled(daemon.rssBytes, 2 ** -20), "MiB"),
    formatSummary(scaled(daemon.peakRssBytes, 2 ** -20), "MiB"),
  ];
}

function table(head: readonly string[], body: readonly (readonly string[])[]): string[] {
  const rows = [head, ...body];
  const widths = head.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(" | ")} |`;
  return [line(head), `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`, ...body.map(line)];
}
