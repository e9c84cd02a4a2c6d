import { setTimeout as delay } from "node:timers/promises";
import { isOcifsError, OcifsError } from "../base/errors.js";
import { callDaemon } from "./control.js";
import type { DaemonStatus } from "./status.js";

/** Starting Node and opening the images from the cache; and once more when the new version does not get ready. */
const REPLACE_TIMEOUT_MS = 60_000;
/** A daemon between two versions has no socket: there is nothing to wait on but time. */
const LOOK_MS = 50;

/**
 * Has the keeper of a daemon start another program in its place, which goes on with its mounts. `unsupported` without a
 * keeper; `io` when the program did not get ready and the old one is back.
 */
export async function replaceDaemon(
  socket: string,
  before: DaemonStatus,
  program: readonly string[],
  signal: AbortSignal,
): Promise<DaemonStatus> {
  await callDaemon(socket, "upgrade", { program });
  const deadline = Date.now() + REPLACE_TIMEOUT_MS;
  for (;;) {
    const now = await statusOf(socket);
    if (now !== undefined && now.pid !== before.pid) {
      // A service manager starts what its unit names.
      if (before.keeperPid === null || now.program.join("\0") === program.join("\0")) return now;
      throw new OcifsError(
        "io",
        `upgrade: the new version did not get ready; daemon ${now.pid}, the one before, goes on`,
      );
    }
    if (Date.now() > deadline) {
      throw new OcifsError("timeout", `upgrade: no daemon answers at ${socket} after ${REPLACE_TIMEOUT_MS / 1000} s`);
    }
    await delay(LOOK_MS, undefined, { signal });
  }
}

async function statusOf(socket: string): Promise<DaemonStatus | undefined> {
  try {
    return (await callDaemon(socket, "status")) as DaemonStatus;
  } catch (error) {
    if (isOcifsError(error, "network")) return undefined;
    throw error;
  }
}
