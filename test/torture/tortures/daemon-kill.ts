import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Random } from "../../bench/content.js";
import { makeLayer } from "../content.js";
import { TortureRegistry } from "../registry.js";
import { type ReaderResult, type Stage, sum, until } from "../stage.js";
import { Findings, NotRun, type Outcome } from "../verdict.js";

const READERS = 8;
/** A mount that has no daemon for longer than this has lost it. */
const RESTART_MS = 15_000;

/** With `fanotify`: from an empty cache on. The cache has no limit there, so after a while no read needs the daemon any more. */
const ROUND_SECONDS = 8;

/** kill -9 of the daemon every 0.5 to 2 s under eight readers: no read may fail, no byte may be wrong. */
export async function daemonKill(stage: Stage): Promise<Outcome> {
  const found = new Findings();
  const layer = makeLayer({ seed: 11, files: 8, fileBytes: 3 << 20 });
  const registry = await TortureRegistry.start(new Map([["killed", layer]]));
  stage.defer(() => registry[Symbol.asyncDispose]());
  const index = await stage.index(layer);
  const random = new Random(0x2545f491);
  const figures = { kills: 0, slowestMs: 0 };
  const results: ReaderResult[] = [];
  if (stage.driver === "fanotify") {
    // So that kills meet reads that wait.
    registry.fault = () => (random.below(2) === 0 ? "500" : "none");
    for (let left = stage.seconds, round = 0; left > 0; left -= ROUND_SECONDS, round++) {
      const cacheDirectory = join(stage.directory, `cache-${round}`);
      const words = [...index, "onerror=retry"];
      const mountpoint = await stage.mount(registry.reference("killed"), "mnt", { words, cacheDirectory });
      results.push(...(await killUnderReaders(mountpoint, Math.min(left, ROUND_SECONDS))));
      await stage.unmount(mountpoint);
    }
  } else {
    const words = [...index, "cachesize=16M", "onerror=retry"];
    const mountpoint = await stage.mount(registry.reference("killed"), "mnt", { words });
    await mustSurvive(stage, mountpoint);
    results.push(...(await killUnderReaders(mountpoint, stage.seconds)));
    await stage.unmount(mountpoint);
  }
  found.readers("", sum(results));
  found.figure("daemons killed", figures.kills);
  found.figure("slowest restart, ms", figures.slowestMs);
  const left = await stage.leftovers();
  found.want(left.length === 0, `left over: ${left.slice(0, 5).join("; ")}`);
  return found.outcome();

  async function killUnderReaders(mountpoint: string, seconds: number): Promise<readonly ReaderResult[]> {
    const readers = Array.from({ length: READERS }, (_, i) =>
      stage.startReader(mountpoint, layer.shape, seconds, 100 + i),
    );
    const end = Date.now() + seconds * 1000;
    while (Date.now() < end) {
      await delay(500 + random.below(1500), undefined, { signal: stage.signal });
      const began = Date.now();
      await killDaemon(stage, mountpoint);
      figures.slowestMs = Math.max(figures.slowestMs, Date.now() - began);
      figures.kills++;
    }
    return await Promise.all(readers.map(({ result }) => result));
  }
}

/** Kills the process that answers for the mount, and waits until another one does. */
async function killDaemon(stage: Stage, mountpoint: string): Promise<void> {
  const killed = (await stage.status(mountpoint))?.pid;
  if (killed === undefined) throw new Error(`no daemon answers for ${mountpoint}`);
  process.kill(killed, "SIGKILL");
  await until(
    `no other daemon answers for ${mountpoint}`,
    async () => {
      const now = await stage.status(mountpoint);
      return now !== undefined && now.pid !== killed;
    },
    RESTART_MS,
  );
}

/** Whether this build starts a daemon again that dies: asked of the mount itself. */
async function mustSurvive(stage: Stage, mountpoint: string): Promise<void> {
  const killed = (await stage.status(mountpoint))?.pid;
  if (killed === undefined) throw new Error(`no daemon answers for ${mountpoint}`);
  process.kill(killed, "SIGKILL");
  await until(`process ${killed} still runs`, async () => {
    const state = await readFile(`/proc/${killed}/stat`, "latin1").catch(() => ") Z");
    return /\) [ZX]/.test(state);
  });
  // With somebody who holds the mount this waits for the next daemon; without, the kernel answers at once.
  const dead = await stat(`${mountpoint}/file-0`).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === "ENOTCONN",
  );
  if (dead) throw new NotRun("nothing in this build starts a daemon again: after kill -9 the mount answers ENOTCONN");
  await until(`no other daemon answers for ${mountpoint}`, async () => (await stage.status(mountpoint)) !== undefined);
}
