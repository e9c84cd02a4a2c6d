import { Socket } from "node:net";
import { messageOf, OcifsError } from "../base/errors.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { takeKeptDescriptors } from "../native/notify.js";
import { type ReadyDetails, runKeptMounts, runMount, runSharedDaemon, type SharedDaemonOptions } from "./daemon.js";
import { type DaemonEnd, exitCodeOf, SHARED } from "./keeper.js";
import { type FoundMount, readKeptMounts } from "./kept-mounts.js";
import type { ProgressMessage, Readiness } from "./mount-config.js";
import { readOrders } from "./orders.js";

/** The descriptor on which the mount helper waits; see launch.ts. */
const READINESS_FD = 3;

/** Progress is told each time this share of the whole has been done: fine enough for a bar. */
const PROGRESS_SHARE = 1 / 500;

/** The mount helper's end of what it waits for. A helper that was killed or stopped is no reason not to go on. */
class Helper {
  readonly #socket = new Socket({ fd: READINESS_FD, readable: false, writable: true });
  #toldBytes: number | undefined;

  constructor() {
    // The helper was killed. The mount is none the worse for it.
    this.#socket.on("error", () => undefined);
  }

  tellProgress(progress: BuildProgress): void {
    const step = progress.totalBytes * PROGRESS_SHARE;
    const isNews = this.#toldBytes === undefined || Math.abs(progress.doneBytes - this.#toldBytes) >= step;
    // Who does not read, being stopped, gets no more of it.
    if (!isNews || this.#socket.writableLength > 0 || this.#socket.destroyed) return;
    this.#toldBytes = progress.doneBytes;
    const message: ProgressMessage = { progress };
    this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  /** The last word; resolves when it was taken, or nobody is there to take it. */
  async tellReadiness(readiness: Readiness): Promise<void> {
    if (this.#socket.destroyed) return;
    await new Promise<void>((resolve) => {
      this.#socket.once("close", () => resolve());
      this.#socket.end(`${JSON.stringify(readiness)}\n`, () => this.#socket.destroy());
    });
  }
}

process.title = "ocifs";
const descriptors = takeKeptDescriptors();
if (process.argv[2] === SHARED || descriptors.length > 0) {
  // Nobody waits for it, and what went wrong is in the log.
  try {
    const found = readKeptMounts(descriptors);
    process.exit(exitCodeOf(await (process.argv[2] === SHARED ? runShared(found) : runKeptMounts(found))));
  } catch (error) {
    process.stderr.write(`${JSON.stringify({ level: "error", msg: messageOf(error) })}\n`);
    process.exit(1);
  }
}
const orders = readOrders(process.stdin);
const config = await orders.config;
const helper = new Helper();
let ready = false;
try {
  const onReady = (details: ReadyDetails) => {
    ready = true;
    void helper.tellReadiness({ ok: true, pid: process.pid, ...details });
  };
  const end = await runMount(config, onReady, {
    tagAnswer: orders.tagAnswer,
    onBuildProgress: (progress) => helper.tellProgress(progress),
  });
  process.exit(exitCodeOf(end));
} catch (error) {
  const code = error instanceof OcifsError ? error.code : "internal";
  if (!ready) await helper.tellReadiness({ ok: false, code, message: messageOf(error) });
  process.exit(1);
}

function runShared(found: readonly FoundMount[]): Promise<DaemonEnd> {
  return runSharedDaemon(JSON.parse(process.argv[3] ?? "") as SharedDaemonOptions, found);
}
