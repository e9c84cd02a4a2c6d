/** Runs the tortures; scripts/torture starts it. Exit code 1 when one of them found something. */
import { setMaxListeners } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { loadavg, release, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { mapConcurrently } from "../../src/base/concurrency.js";
import { runCommand } from "../bench/command.js";
import { orMessage } from "../bench/or-message.js";
import { repositoryRoot } from "../support/fixtures.js";
import { Stage } from "./stage.js";
import { type TortureName, tortures } from "./tortures/index.js";
import { NotRun, type Outcome } from "./verdict.js";

const usage = `usage: scripts/torture [--short] [--seconds N] [--only NAME...] [--driver NAME] [--out DIR]
  --short        a few seconds each, at the same time; what scripts/test runs
  --seconds N    N seconds each
  --only NAME    only these: ${Object.keys(tortures).join(", ")}
  --driver NAME  how ocifs mounts, as in -o driver=; default fuse
  --out DIR      where torture.json and torture.md go; default .torture`;

/** In the short form they run at the same time: most of it is waiting. */
const SHORT_AT_ONCE = 4;

interface Options {
  readonly short: boolean;
  readonly seconds: number | undefined;
  readonly names: readonly TortureName[];
  readonly driver: string;
  readonly outDirectory: string;
}

interface Result {
  readonly name: TortureName;
  readonly seconds: number;
  readonly outcome: Outcome;
  /** Why it did not run. */
  readonly notRun?: string;
}

function isTorture(name: string): name is TortureName {
  return Object.hasOwn(tortures, name);
}

function parseOptions(): Options | string {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      short: { type: "boolean", default: false },
      seconds: { type: "string" },
      only: { type: "string", multiple: true },
      driver: { type: "string", default: "fuse" },
      out: { type: "string", default: ".torture" },
    },
  });
  if (positionals.length > 0 && values.only === undefined) return `what is ${positionals.join(" ")}?`;
  // `--only a b` and `--only a --only b` are both read.
  const asked = values.only === undefined ? Object.keys(tortures) : [...values.only, ...positionals];
  const unknown = asked.filter((name) => !isTorture(name));
  if (unknown.length > 0) return `no torture ${unknown.join(", ")}`;
  if (values.seconds !== undefined && !/^[1-9]\d{0,5}$/.test(values.seconds))
    return "--seconds wants a number above zero";
  const seconds = values.seconds === undefined ? undefined : Number(values.seconds);
  const { short, driver, out } = values;
  return { short, seconds, names: asked.filter(isTorture), driver, outDirectory: out };
}

async function runAll(options: Options, directory: string, signal: AbortSignal): Promise<readonly Result[]> {
  const readerProgram = join(directory, "reader");
  const source = join(repositoryRoot, "test", "torture", "reader.c");
  await runCommand("cc", ["-O2", "-Wall", "-Wextra", "-o", readerProgram, source], { signal });
  return await mapConcurrently(options.names, options.short ? SHORT_AT_ONCE : 1, async (name) => {
    const torture = tortures[name];
    const seconds = options.seconds ?? (options.short ? torture.shortSeconds : torture.seconds);
    const say = (message: string) => process.stderr.write(`  ${name}: ${message}\n`);
    const { short, driver } = options;
    const began = performance.now();
    let notRun: string | undefined;
    let outcome: Outcome = { figures: {}, failures: [] };
    try {
      await using stage = await Stage.open({ name, seconds, short, driver, directory, readerProgram, signal, say });
      outcome = await torture.run(stage);
    } catch (error) {
      signal.throwIfAborted();
      const message = error instanceof Error ? error.message : String(error);
      if (error instanceof NotRun) notRun = message;
      else outcome = { figures: {}, failures: [message] };
    }
    const took = Math.round((performance.now() - began) / 1000);
    if (notRun !== undefined) say(`NOT RUN: ${notRun}`);
    else say(outcome.failures.length === 0 ? `passed in ${took} s` : `FAILED: ${outcome.failures.join("; ")}`);
    return { name, seconds: took, outcome, ...(notRun === undefined ? {} : { notRun }) };
  });
}

function formatMarkdown(options: Options, results: readonly Result[]): string {
  const form = options.short ? "short form" : options.seconds === undefined ? "full form" : `${options.seconds} s each`;
  const load = loadavg()[0]?.toFixed(1) ?? "";
  const head = `${new Date().toISOString()}, driver ${options.driver}, Linux ${release()}, ${form}, load ${load}`;
  const rows = results.map(({ name, seconds, outcome, notRun }) => {
    const verdict = notRun === undefined ? (outcome.failures.length === 0 ? "passed" : "FAILED") : "NOT RUN";
    const figures = Object.entries(outcome.figures).map(([figure, value]) => `${figure} ${value}`);
    const said = [...(notRun === undefined ? [] : [notRun]), ...outcome.failures, ...figures].join("; ");
    return `| ${name} | ${verdict} | ${seconds} s | ${said.replaceAll("|", "\\|")} |`;
  });
  return [head, "", "| torture | verdict | took | figures |", "|---|---|---|---|", ...rows, ""].join("\n");
}

async function main(): Promise<number> {
  const options = orMessage(parseOptions);
  if (typeof options === "string") {
    process.stderr.write(`torture: ${options}\n${usage}\n`);
    return 2;
  }
  const interrupted = new AbortController();
  // Every program that is waited for listens to it.
  setMaxListeners(0, interrupted.signal);
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => interrupted.abort(new Error(`ended by ${name}`)));
  }
  const directory = await mkdtemp(join(tmpdir(), "ocifs-torture-"));
  let results: readonly Result[];
  try {
    results = await runAll(options, directory, interrupted.signal);
  } catch (error) {
    if (!interrupted.signal.aborted) throw error;
    process.stderr.write(`torture: ${interrupted.signal.reason}\n`);
    return 130;
  } finally {
    await rm(directory, { recursive: true, force: true, maxRetries: 5 });
  }
  const markdown = formatMarkdown(options, results);
  await mkdir(options.outDirectory, { recursive: true });
  await writeFile(join(options.outDirectory, "torture.json"), `${JSON.stringify(results, undefined, 1)}\n`);
  await writeFile(join(options.outDirectory, "torture.md"), markdown);
  process.stdout.write(`\n${markdown}`);
  return results.some(({ outcome }) => outcome.failures.length > 0) ? 1 : 0;
}

process.exitCode = await main();
