import { OcifsError } from "../../base/errors.js";
import { steps } from "../../base/steps.js";
import { callAllDaemons } from "../../daemon/control.js";
import { runtimeDirectory } from "../../daemon/runtime-directory.js";
import type { ReadTrace } from "../../daemon/slow-reads.js";
import type { DaemonStatus, MountStatus } from "../../daemon/status.js";
import { defineCommand, jsonOption } from "../command.js";
import { printJson, printTable, type TextSink } from "../output.js";
import { formatSize } from "../units.js";

/** `ocifs status`: the mounts of this user and how they are doing. */
export const statusCommand = defineCommand<{ json: boolean; slow: boolean }>({
  builder: (yargs) =>
    jsonOption(yargs).option("slow", {
      type: "boolean",
      default: false,
      describe: "Show what reads waited for: the slowest and the latest that were not in the cache",
    }),
  run: async (args, { stdout }) => {
    if (args.slow) return await showSlowReads(args.json, stdout);
    const { answers, failures } = await callAllDaemons(runtimeDirectory(), "status");
    const mounts = (answers as DaemonStatus[]).flatMap((each) => each.mounts);
    if (args.json) printJson(stdout, { mounts });
    else if (mounts.length > 0) printMounts(stdout, mounts);
    else if (failures.length === 0) stdout.write("no mounts\n");
    throwFailures(failures);
  },
});

async function showSlowReads(json: boolean, stdout: TextSink): Promise<void> {
  const { answers, failures } = await callAllDaemons(runtimeDirectory(), "slowReads");
  const reads = (answers as ReadTrace[][]).flat().sort((a, b) => b.totalMs - a.totalMs);
  if (json) printJson(stdout, { slowReads: reads });
  else if (reads.length > 0) printSlowReads(stdout, reads);
  else if (failures.length === 0) stdout.write("no read had to wait\n");
  throwFailures(failures);
}

function printSlowReads(stdout: TextSink, reads: readonly ReadTrace[]): void {
  const seen = steps.filter((step) => reads.some((read) => read.steps[step] !== undefined));
  const ms = (value: number | undefined) => (value === undefined ? "-" : value.toFixed(1));
  printTable(
    stdout,
    [
      { title: "MOUNTPOINT" },
      { title: "LAYER" },
      { title: "SPANS" },
      { title: "AT" },
      { title: "MS", align: "right" },
      ...seen.map((step) => ({ title: step.toUpperCase(), align: "right" as const })),
      { title: "ERROR" },
    ],
    reads.map((read) => [
      read.mountpoint,
      read.layer.slice(0, "sha256:".length + 12),
      read.firstSpan === read.lastSpan ? String(read.firstSpan) : `${read.firstSpan}-${read.lastSpan}`,
      read.at,
      ms(read.totalMs),
      ...seen.map((step) => ms(read.steps[step])),
      read.error ?? "-",
    ]),
  );
}

/** What is known was told; the exit code says that it is not all. */
export function throwFailures(failures: readonly OcifsError[]): void {
  const [first] = failures;
  if (first) throw new OcifsError(first.code, failures.map((failure) => failure.message).join("; "));
}

function printMounts(stdout: TextSink, mounts: readonly MountStatus[]): void {
  printTable(
    stdout,
    [
      { title: "MOUNTPOINT" },
      { title: "SOURCE" },
      { title: "DRIVER" },
      { title: "STATE" },
      { title: "FETCHED", align: "right" },
      { title: "OF", align: "right" },
      { title: "SPANS", align: "right" },
      { title: "COMPLETE", align: "right" },
      { title: "HITS", align: "right" },
      { title: "ERRORS", align: "right" },
    ],
    mounts.map((mount) => [
      mount.mountpoint,
      mount.source,
      mount.driver,
      mount.state,
      formatSize(mount.bytesFetched),
      formatSize(mount.bytesTotal),
      `${mount.layers.reduce((sum, l) => sum + l.cachedSpans, 0)}/${mount.layers.reduce((sum, l) => sum + l.spans, 0)}`,
      `${mount.layers.filter((l) => l.complete).length}/${mount.layers.length}`,
      mount.hitRatio === null ? "-" : `${Math.floor(100 * mount.hitRatio)}%`,
      String(mount.errors),
    ]),
  );
  for (const mount of mounts) {
    if (mount.problem !== null) {
      stdout.write(`${mount.mountpoint}: degraded since ${mount.degradedSince}: ${mount.problem}\n`);
    }
    for (const { digest, fill } of mount.layers) {
      if (fill.state === "off" || (fill.state === "done" && fill.reason === null)) continue;
      const what = [fill.state, fill.bytesLeft > 0 ? `${formatSize(fill.bytesLeft)} to fetch` : "", fill.reason ?? ""];
      stdout.write(`${mount.mountpoint}: layer ${digest}: ${what.filter((part) => part !== "").join(", ")}\n`);
    }
  }
}
