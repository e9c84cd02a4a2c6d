import { spawn } from "node:child_process";
import { once } from "node:events";
import { open } from "node:fs/promises";
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
  try {
    const [stdout, stderr, extra, [code, by]] = await Promise.all([
      text(child.stdout as NodeJS.ReadableStream),
      child.stderr === null ? "" : text(child.stderr),
      text(child.stdio[3] as NodeJS.ReadableStream),
      closed,
    ]);
    options.signal.throwIfAborted();
    if (code !== 0) {
      const said = stderrFile === undefined ? stderr : await stderrFile.readFile("utf8");
      throw new Error(`${program} ${args.join(" ")}: ${by ?? `exit code ${code}`}: ${said.slice(-STDERR_SHOWN_BYTES)}`);
    }
    return { stdout, extra };
  } finally {
    options.signal.removeEventListener("abort", onAbort);
    await stderrFile?.close();
  }
}

/** A pipeline in which every part must succeed. */
export function runPipeline(script: string, args: readonly string[], options: CommandOptions): Promise<CommandResult> {
  return runCommand("bash", ["-c", `set -euo pipefail; ${script}`, "bash", ...args], options);
}
