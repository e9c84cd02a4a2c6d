import { spawn } from "node:child_process";
import { once } from "node:events";
import { open, readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";

export interface CommandOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly signal: AbortSignal;
  /**
   * The program leaves a daemon behind that keeps its standard error: that goes to this file, and only its standard output
   * is waited for.
   */
  readonly stderrPath?: string;
}

export interface CommandResult {
  readonly stdout: string;
  /** What it wrote to descriptor 3. */
  readonly extra: string;
}

const STDERR_SHOWN_BYTES = 2000;
/** A child that was told to end and has not within this is stuck in the kernel; nobody can wait for it. */
const END_DEADLINE_MS = 10_000;

/**
 * Runs a program to its end and returns its output; throws with its stderr when it fails. A process group of its own, so
 * that an abort ends a pipeline whole.
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  options: CommandOptions,
): Promise<CommandResult> {
  options.signal.throwIfAborted();
  const stderrFile = options.stderrPath === undefined ? undefined : await open(options.stderrPath, "a+");
  const child = spawn(program, [...args], {
    stdio: ["ignore", "pipe", stderrFile?.fd ?? "pipe", "pipe"],
    detached: true,
    ...(options.env === undefined ? {} : { env: options.env }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  const closed = once(child, "close") as Promise<[number | null, NodeJS.Signals | null]>;
  const onAbort = () => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, "SIGTERM");
  };
  options.signal.addEventListener("abort", onAbort, { once: true });
  const over = new AbortController();
  try {
    const ended = Promise.all([
      text(child.stdout as NodeJS.ReadableStream),
      child.stderr === null ? "" : text(child.stderr),
      text(child.stdio[3] as NodeJS.ReadableStream),
      closed,
    ]);
    const [stdout, stderr, extra, [code, by]] = await Promise.race([ended, stuck(options.signal, over.signal)]);
    options.signal.throwIfAborted();
    if (code !== 0) {
      // Not through the handle: the child moved its offset to the end.
      const said = options.stderrPath === undefined ? stderr : await readFile(options.stderrPath, "utf8");
      throw new Error(`${program} ${args.join(" ")}: ${by ?? `exit code ${code}`}: ${said.slice(-STDERR_SHOWN_BYTES)}`);
    }
    return { stdout, extra };
  } finally {
    over.abort();
    options.signal.removeEventListener("abort", onAbort);
    await stderrFile?.close();
  }
}

/** Rejects some time after `signal` is aborted; never settles when `over` is first. */
async function stuck(signal: AbortSignal, over: AbortSignal): Promise<never> {
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true, signal: over });
  });
  return await new Promise<never>((_, reject) => {
    const timer = setTimeout(() => reject(new Error("a child does not end")), END_DEADLINE_MS);
    over.addEventListener("abort", () => clearTimeout(timer), { once: true });
  });
}

/** A pipeline in which every part must succeed. */
export function runPipeline(script: string, args: readonly string[], options: CommandOptions): Promise<CommandResult> {
  return runCommand("bash", ["-c", `set -euo pipefail; ${script}`, "bash", ...args], options);
}
