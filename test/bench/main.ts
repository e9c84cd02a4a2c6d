/** Runs the benchmarks; scripts/bench starts it. Exit code 1 when a workload failed; a missed figure is no failure. */
import { mkdir, writeFile } from "node:fs/promises";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Bench } from "./bench.js";
import { type Figure, Skipped } from "./figures.js";
import { describeMachine } from "./machine.js";
import { orMessage } from "./or-message.js";
import { type DaemonSummary, formatMarkdown, type Report, summarizeDaemons } from "./report.js";
import { plotRatios } from "./svg.js";
import { type WorkloadName, workloads } from "./workloads/index.js";

const usage = `usage: scripts/bench [--quick] [--only NAME...] [--driver NAME] [--out DIR]
  --quick        3 repeats instead of 5
  --only NAME    only these workloads: ${Object.keys(workloads).join(", ")}
  --driver NAME  how ocifs mounts, as in -o driver=; default fuse
  --out DIR      where bench.json, bench.md and bench.svg go; default .bench`;

/** What a shell reports of a program that a signal ended. */
const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

interface Options {
  readonly repeats: number;
  readonly names: readonly WorkloadName[];
  readonly driver: string;
  readonly outDirectory: string;
  readonly stateDirectory: string;
}

function parseOptions(): Options | string {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      quick: { type: "boolean", default: false },
      only: { type: "string", multiple: true },
      driver: { type: "string", default: "fuse" },
      out: { type: "string", default: ".bench" },
      state: { type: "string" },
    },
  });
  if (values.state === undefined) return "started by hand; use scripts/bench";
  if (positionals.length > 0 && values.only === undefined) return `what is ${positionals.join(" ")}?`;
  // `--only a b` and `--only a --only b` are both read.
  const asked = values.only === undefined ? Object.keys(workloads) : [...values.only, ...positionals];
  const unknown = asked.filter((name) => !isWorkload(name));
  if (unknown.length > 0) return `no workload ${unknown.join(", ")}`;
  return {
    repeats: values.quick ? 3 : 5,
    names: asked.filter(isWorkload),
    driver: values.driver,
    outDirectory: values.out,
    stateDirectory: values.state,
  };
}

function isWorkload(name: string): name is WorkloadName {
  return Object.hasOwn(workloads, name);
}

async function runWorkloads(options: Options, signal: AbortSignal): Promise<Report> {
  const startedAt = new Date().toISOString();
  const say = (message: string) => process.stderr.write(`  ${message}\n`);
  const figures: Figure[] = [];
  const daemons: DaemonSummary[] = [];
  const skipped: { workload: string; reason: string }[] = [];
  const failures: { workload: string; message: string }[] = [];
  await using bench = await Bench.open({ ...options, signal, say });
  const machine = await describeMachine(bench);
  for (const name of options.names) {
    process.stderr.write(`== ${name}\n`);
    try {
      figures.push(...(await workloads[name](bench)));
    } catch (error) {
      signal.throwIfAborted();
      const message = error instanceof Error ? error.message : String(error);
      if (error instanceof Skipped) {
        process.stderr.write(`  skipped: ${message}\n`);
        skipped.push({ workload: name, reason: message });
      } else {
        process.stderr.write(`  FAILED: ${message}\n`);
        failures.push({ workload: name, message });
      }
    }
    daemons.push(...summarizeDaemons(name, bench.takeDaemonUse()));
  }
  const { driver, repeats } = options;
  return {
    startedAt,
    repeats,
    driver,
    machine,
    cachesEmptied: bench.cachesEmptied,
    loads: loadavg(),
    figures,
    daemons,
    skipped,
    failures,
  };
}

async function main(): Promise<number> {
  const options = orMessage(parseOptions);
  if (typeof options === "string") {
    process.stderr.write(`bench: ${options}\n${usage}\n`);
    return 2;
  }
  const interrupted = new AbortController();
  let exitCode = 0;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      if (exitCode === 0) process.stderr.write(`bench: ${name}, cleaning up\n`);
      exitCode = exitCodes[name];
      interrupted.abort(new Error(`ended by ${name}`));
    });
  }
  let report: Report;
  try {
    report = await runWorkloads(options, interrupted.signal);
  } catch (error) {
    if (exitCode !== 0) return exitCode;
    throw error;
  }
  const markdown = formatMarkdown(report);
  await mkdir(options.outDirectory, { recursive: true });
  await writeFile(join(options.outDirectory, "bench.json"), `${JSON.stringify(report, undefined, 1)}\n`);
  await writeFile(join(options.outDirectory, "bench.md"), markdown);
  const title = `ocifs, driver ${report.driver}, ${report.startedAt}`;
  await writeFile(join(options.outDirectory, "bench.svg"), plotRatios(title, report.figures));
  process.stdout.write(`\n${markdown}`);
  return report.failures.length > 0 ? 1 : 0;
}

process.exitCode = await main();
