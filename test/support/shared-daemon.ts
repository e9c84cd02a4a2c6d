import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import type { DaemonStatus, MountStatus } from "../../src/daemon/status.js";
import { type MountSandbox, programLine } from "./mounted-image.js";

/** `ocifs daemon` of a sandbox, which ends with the test. */
export class SharedDaemon {
  readonly #child: ChildProcess;
  readonly #sandbox: MountSandbox;
  /** All that it logged. */
  log = "";

  private constructor(child: ChildProcess, sandbox: MountSandbox) {
    this.#child = child;
    this.#sandbox = sandbox;
  }

  /** Resolves when it takes mounts. */
  static async start(t: TestContext, sandbox: MountSandbox, args: readonly string[] = []): Promise<SharedDaemon> {
    const [node, program] = programLine("ocifs");
    const child = spawn(node, [program, "daemon", ...args], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, ...sandbox.env },
    });
    const daemon = new SharedDaemon(child, sandbox);
    t.after(() => daemon.stop());
    const lines = createInterface({ input: child.stderr ?? assert.fail() });
    await new Promise<void>((resolve, reject) => {
      lines.on("line", (line) => {
        daemon.log += `${line}\n`;
        if (line.includes("the daemon takes mounts")) resolve();
      });
      child.once("exit", (code) => reject(new Error(`ocifs daemon has ended with ${code}: ${daemon.log}`)));
    });
    return daemon;
  }

  /** SIGTERM, and its end. */
  async stop(): Promise<number | null> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return this.#child.exitCode;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGTERM");
    await exited;
    return this.#child.exitCode;
  }

  async mounts(): Promise<MountStatus[]> {
    const { status, stdout, stderr } = await this.#sandbox.ocifs(["status", "--json"]);
    assert.equal(status, 0, stderr);
    return (JSON.parse(stdout) as Pick<DaemonStatus, "mounts">).mounts.slice();
  }

  /** When it has so many; a daemon that was killed has none for a while. */
  async mountsWhen(count: number): Promise<MountStatus[]> {
    for (;;) {
      const mounts = await this.mounts();
      if (mounts.length === count) return mounts;
    }
  }
}
