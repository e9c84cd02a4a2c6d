import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { open } from "node:fs/promises";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { promisify } from "node:util";

const execFileAsync = promisify(execFile);

/** Runs a program to its end; throws with its stderr when it fails. */
export async function runProgram(program: string, args: readonly string[]): Promise<string> {
  const { stdout } = await execFileAsync(program, [...args], { maxBuffer: 16 << 20 });
  return stdout;
}

export interface StartedProcess {
  readonly child: ChildProcess;
  /** The first match in its stderr. */
  readonly match: RegExpMatchArray;
  stop(): Promise<void>;
}

/**
 * Starts a server and waits until a line of its stderr matches; throws with what it wrote when it ends before that. Its
 * stdout goes to the end of the file `stdoutPath`, if given.
 */
export async function startProcess(
  program: string,
  args: readonly string[],
  ready: RegExp,
  stdoutPath?: string,
): Promise<StartedProcess> {
  const stdout = stdoutPath === undefined ? undefined : await open(stdoutPath, "a");
  const child = spawn(program, [...args], { stdio: ["ignore", stdout?.fd ?? "ignore", "pipe"] });
  const seen: string[] = [];
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, "exit");
    child.kill("SIGKILL");
    await exit;
  };
  try {
    await once(child, "spawn");
  } finally {
    await stdout?.close();
  }
  const lines = createInterface({ input: child.stderr as Readable });
  const match = await new Promise<RegExpMatchArray>((resolve, reject) => {
    lines.on("line", (line) => {
      const found = ready.exec(line);
      if (found !== null) resolve(found);
      else if (seen.length < 100) seen.push(line);
    });
    lines.on("close", () => reject(new Error(`${program} ended before it was ready:\n${seen.join("\n")}`)));
  });
  return { child, match, stop };
}
