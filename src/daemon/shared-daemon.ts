import { closeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { messageOf } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { duplicateFd } from "../native/fdpass.js";
import type { FoundMount } from "./kept-mounts.js";
import type { MountTable } from "./mount-table.js";

const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 15_000;

/**
 * Goes on with the mounts of the daemon before this one. Resolves when each is served, given up, or waits for something to pass: then it is
 * tried again for as long as the daemon lives, and the others are none the worse for it.
 */
export async function adoptAll(
  table: MountTable,
  found: readonly FoundMount[],
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  await Promise.all(found.map((each) => adoptOrRetry(table, each, log, signal)));
}

async function adoptOrRetry(table: MountTable, found: FoundMount, log: Log, signal: AbortSignal): Promise<void> {
  const problem = await tryToAdopt(table, found);
  if (problem === undefined) return closeKept(found);
  log.warn("a mount waits to be gone on with", { reason: problem });
  void retry(table, found, signal).finally(() => closeKept(found));
}

async function retry(table: MountTable, found: FoundMount, signal: AbortSignal): Promise<void> {
  for (let waitMs = RETRY_FIRST_MS; !signal.aborted; waitMs = Math.min(RETRY_MAX_MS, 2 * waitMs)) {
    await delay(waitMs, undefined, { signal, ref: false }).catch(() => undefined);
    if (signal.aborted || (await tryToAdopt(table, found)) === undefined) return;
  }
}

/** Resolves to what may pass. A try takes descriptors over, so it gets some of its own. */
async function tryToAdopt(table: MountTable, found: FoundMount): Promise<string | undefined> {
  try {
    await table.adopt("kept" in found ? { ...found, kept: duplicated(found.kept) } : found);
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

type Kept = Extract<FoundMount, { kept: unknown }>["kept"];

function duplicated(kept: Kept): Kept {
  const fds = Object.fromEntries(Object.entries(kept.mount.fds).map(([name, fd]) => [name, duplicateFd(fd)]));
  return { ...kept, mount: { ...kept.mount, fds } };
}

function closeKept(found: FoundMount): void {
  if ("kept" in found) for (const fd of Object.values(found.kept.mount.fds)) closeSync(fd);
}
