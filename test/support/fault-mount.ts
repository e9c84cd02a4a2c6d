import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { promisify } from "node:util";
import { callAllDaemons } from "../../src/daemon/control.js";
import type { DaemonStatus, MountStatus } from "../../src/daemon/status.js";
import { repositoryRoot } from "./fixtures.js";

const run = promisify(execFile);

export interface ReadResult {
  /** Null when a signal ended the reader. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly bytes: Buffer;
  readonly stderr: string;
}

export interface FaultMount {
  readonly directory: string;
  readonly pid: number;
  /** What the daemon wrote to its standard error. */
  readonly log: () => string;
  /** Resolves once the log has a match; rejects when the daemon ends before. */
  logged(pattern: RegExp): Promise<void>;
  /** What `ocifs status` would show. */
  status(): Promise<MountStatus>;
  /** `cat` of one file, as a process of its own. */
  startReader(name: string): { readonly child: ChildProcess; readonly result: Promise<ReadResult> };
  openFiles(): Promise<number>;
  /** SIGKILL; the mount is taken away after it. */
  kill(): Promise<void>;
  /** SIGTERM; resolves to the daemon's exit code. */
  stop(): Promise<number | null>;
}

/** Mounts with mount.ocifs in the foreground; unmounted at the end of the test, whatever happens. */
export async function startFaultMount(
  t: TestContext,
  source: string,
  options: readonly string[],
  cacheDir?: string,
): Promise<FaultMount> {
  const base = await mkdtemp(join(tmpdir(), "ocifs-faults-"));
  const directory = join(base, "mnt");
  await mkdir(directory);
  const words = ["foreground", "oci.insecure", `cachedir=${cacheDir ?? join(base, "cache")}`, ...options].join(",");
  const program = join(repositoryRoot, "dist", "src", "cli", "mount-ocifs.js");
  const child = spawn(process.execPath, [program, source, directory, "-o", words], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, OCIFS_RUNTIME_DIR: join(base, "run") },
  });
  let text = "";
  const watchers = new Set<() => void>();
  const exited = once(child, "exit").then(([code]) => code as number | null);
  t.after(async () => {
    // Readers of a mount whose daemon is gone get an error; those of a detached one, too.
    await run("umount", ["-l", directory]).catch(() => undefined);
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await exited;
    await rm(base, { recursive: true, force: true });
  });
  await new Promise<void>((resolve, reject) => {
    child.stderr.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      if (text.includes("is ready")) resolve();
      for (const look of watchers) look();
    });
    void exited.then((code) => reject(new Error(`mount.ocifs ended with ${code}: ${text}`)));
  });
  const { pid = 0 } = child;
  return {
    directory,
    pid,
    log: () => text,
    logged: (pattern) =>
      new Promise<void>((resolve, reject) => {
        const look = () => {
          if (!pattern.test(text)) return;
          watchers.delete(look);
          resolve();
        };
        watchers.add(look);
        look();
        void exited.then((code) =>
          reject(new Error(`the daemon ended with ${code} before it logged ${pattern}: ${text}`)),
        );
      }),
    status: async () => {
      const { answers } = await callAllDaemons(join(base, "run"), "status");
      return (
        (answers as DaemonStatus[]).flatMap(({ mounts }) => mounts).find((each) => each.pid === pid) ??
        assert.fail("the daemon does not answer")
      );
    },
    kill: async () => {
      child.kill("SIGKILL");
      await exited;
      await run("umount", ["-l", directory]);
    },
    startReader: (name) => startReader(t, join(directory, name)),
    openFiles: async () => (await readdir(`/proc/${pid}/fd`)).length,
    stop: () => {
      child.kill("SIGTERM");
      return exited;
    },
  };
}

function startReader(t: TestContext, path: string) {
  const child = spawn("cat", [path], { stdio: ["ignore", "pipe", "pipe"] });
  t.after(() => void child.kill("SIGKILL"));
  const chunks: Buffer[] = [];
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const result = once(child, "close").then(([exitCode, signal]) => ({
    exitCode: exitCode as number | null,
    signal: signal as NodeJS.Signals | null,
    bytes: Buffer.concat(chunks),
    stderr,
  }));
  return { child, result };
}
