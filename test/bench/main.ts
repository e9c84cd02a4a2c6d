/** Runs the benchmarks; scripts/bench starts it. Exit code 1 when a workload failed; a missed figure is no failure. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Bench } from "./bench.js";
import type { Figure } from "./figures.js";
import { describeMachine, formatMarkdown, type Report } from "./report.js";
import { backgroundFill } from "./workloads/background-fill.js";
import { coldFile, coldRandom } from "./workloads/cold-reads.js";
import { daemonMemory } from "./workloads/daemon-memory.js";
import { findAll } from "./workloads/find.js";
import { firstMount } from "./workloads/first-mount.js";
import { indexCreation } from "./workloads/index-creation.js";
import { mountTime } from "./workloads/mount-time.js";
import { remountTime } from "./workloads/remount-time.js";
import { warmRandom, warmSequential } from "./workloads/warm-reads.js";

const workloads: Readonly<Record<string, (bench: Bench) => Promise<Figure[]>>> = {
  index: indexCreation,
  "cold-file": coldFile,
  "cold-random": coldRandom,
  sequential: warmSequential,
  random: warmRandom,
  find: findAll,
  memory: daemonMemory,
  mount: mountTime,
  remount: remountTime,
  fill: backgroundFill,
  "first-mount": firstMount,
};

const usage = `usage: scripts/bench [--quick] [--only NAME...] [--out DIR]
  --quick      3 repeats instead of 5
  --only NAME  only these workloads: ${Object.keys(workloads).join(", ")}
  --out DIR    where bench.json and bench.md go; default .bench`;

/** What a shell reports of a program that a signal ended. */
const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

interface Options {
  readonly repeats: number;
  readonly names: readonly string[];
  readonly outDirectory: string;
  readonly stateDirectory: string;
}

function parseOptions(): Options | string {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      quick: { type: "boolean", default: false },
      only: { type: "string", multiple: true },
      out: { type: "string", default: ".bench" },
      state: { type: "string" },
    },
  });
  if (values.state === undefined) return "started by hand; use scripts/bench";
  if (positionals.length > 0 && values.only === undefined) return `what is ${positionals.join(" ")}?`;
  // `--only a b` and `--only a --only b` are both read.
  const names = values.only === undefined ? Object.keys(workloads) : [...values.only, ...positionals];
  const unknown = names.filter((name) => !Object.hasOwn(workloads, name));
  if (unknown.length > 0) return `no workload ${unknown.join(", ")}`;
  return { repeats: values.quick ? 3 : 5, names, outDirectory: values.out, stateDirectory: values.state };
}

async function runWorkloads(options: Options, signal: AbortSignal): Promise<Report> {
  const startedAt = new Date().toISOString();
  const say = (message: string) => process.stderr.write(`  ${message}\n`);
  const figures: Figure[] = [];
  const failures: { workload: string; message: string }[] = [];
  await using bench = await Bench.open({ ...options, signal, say });
  for (const name of options.names) {
    process.stderr.write(`== ${name}\n`);
    try {
      figures.push(...((await workloads[name]?.(bench)) ?? []));
    } catch (error) {
      signal.throwIfAborted();
      const message = error instanceof Error ? error.message : String(error);
      process.stderr.write(`  FAILED: ${message}\n`);
      failures.push({ workload: name, message });
    }
  }
  return { startedAt, repeats: options.repeats, machine: describeMachine(), figures, failures };
}

async function main(): Promise<number> {
  let options: Options | string;
  try {
    options = parseOptions();
  } catch (error) {
    options = error instanceof Error ? error.message : String(error);
  }
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
  process.stdout.write(`\n${markdown}`);
  return report.failures.length > 0 ? 1 : 0;
}

process.exitCode = await main();
