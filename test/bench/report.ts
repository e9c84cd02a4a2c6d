import { cpus, loadavg, release, totalmem } from "node:os";
import type { Figure, Summary, Unit } from "./figures.js";

export interface Machine {
  readonly kernel: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly node: string;
  /** Of the last 15 minutes, at the end: far above the number of cores, somebody else was measured too. */
  readonly load: number;
}

export interface Report {
  readonly startedAt: string;
  readonly repeats: number;
  readonly machine: Machine;
  readonly figures: readonly Figure[];
  /** Workloads that gave wrong bytes or an error. */
  readonly failures: readonly { readonly workload: string; readonly message: string }[];
}

export function describeMachine(): Machine {
  const list = cpus();
  return {
    kernel: release(),
    cpu: list[0]?.model ?? "unknown",
    cores: list.length,
    memoryBytes: totalmem(),
    node: process.version,
    load: loadavg()[2] ?? 0,
  };
}

/** Few enough digits to read, enough to compare. */
function formatNumber(value: number): string {
  if (Number.isInteger(value)) return String(value);
  if (Math.abs(value) >= 100) return value.toFixed(0);
  return value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}

function formatSummary(summary: Summary, unit: Unit): string {
  const { median, min, max } = summary;
  const spread = min === max ? "" : ` (${formatNumber(min)}–${formatNumber(max)})`;
  return `${formatNumber(median)}${spread} ${unit}`;
}

function formatRatio({ median, min, max }: Summary): string {
  return `${median.toFixed(2)} ×${min === max ? "" : ` (${min.toFixed(2)}–${max.toFixed(2)})`}`;
}

/** The figures as a Markdown table, commands and notes below it. */
export function formatMarkdown(report: Report): string {
  const { machine } = report;
  const rows = [
    ["workload", "figure", "ocifs", "reference", "ratio", "want"],
    ...report.figures.map((f) => [
      f.workload,
      f.name,
      formatSummary(f.ocifs, f.unit),
      f.reference === undefined ? "" : `${f.reference.name}: ${formatSummary(f.reference.summary, f.unit)}`,
      f.ratio === undefined ? "" : formatRatio(f.ratio),
      f.want === undefined ? "" : `${f.want.text}: ${f.want.met ? "met" : "MISSED"}`,
    ]),
  ];
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(" | ")} |`;
  const [head = [], ...body] = rows;
  const out = [
    `${report.startedAt}, Linux ${machine.kernel}, ${machine.cores} × ${machine.cpu}, ` +
      `${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, Node ${machine.node}, load ${machine.load.toFixed(1)}; medians of ${report.repeats} (min–max)`,
    "",
    line(head),
    `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|`,
    ...body.map(line),
    "",
    "How each was taken:",
    "",
    ...report.figures.map(
      (f) => `- ${f.workload}, ${f.name}: \`${f.command}\`${f.note === undefined ? "" : `. ${f.note}`}`,
    ),
    "",
  ];
  if (report.failures.length > 0) {
    out.push("FAILED:", "", ...report.failures.map((f) => `- ${f.workload}: ${f.message}`), "");
  }
  return out.join("\n");
}
