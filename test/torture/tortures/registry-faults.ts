import { setTimeout as delay } from "node:timers/promises";
import { Random } from "../../bench/content.js";
import { makeLayer } from "../content.js";
import { type Fault, TortureRegistry } from "../registry.js";
import { type ReaderResult, type Stage, sum } from "../stage.js";
import { Findings, type Outcome } from "../verdict.js";

const TIMEOUT_MS = 2000;
const READERS = 8;

/** One kind of trouble: how it begins, and how it ends. */
interface Trouble {
  readonly begin: (registry: TortureRegistry) => void | Promise<void>;
  readonly end: (registry: TortureRegistry) => void | Promise<void>;
}

const answering = (...faults: readonly Fault[]): Trouble => ({
  begin: (registry) => {
    let count = 0;
    registry.fault = () => faults[count++ % faults.length] ?? "none";
  },
  end: (registry) => {
    registry.fault = () => "none";
    // Stalled answers would stay stalled.
    registry.cutConnections();
  },
});

const troubles: Readonly<Record<string, Trouble>> = {
  "killed and restarted": { begin: (registry) => registry.down(), end: (registry) => registry.up() },
  "every other connection reset": {
    begin: (registry) => {
      registry.resetsConnections = true;
      registry.cutConnections();
    },
    end: (registry) => {
      registry.resetsConnections = false;
    },
  },
  "stalled before the answer": answering("stall"),
  "stalled in the body": answering("stall-in-body"),
  "500, 429, 401 in turn with good answers": answering("500", "none", "429", "none", "401", "none"),
  "500 to all": answering("500"),
  // Every other one: bytes that arrive extend the timeout, so a series of halves may go on for longer than it.
  "bodies cut short": answering("short", "none"),
  "every other request reset": answering("reset", "none"),
};

/** Readers of a cache too small for the layer, so that they keep asking the registry, which is in trouble most of the time. */
async function run(stage: Stage, onError: "retry" | "eio", seconds: number): Promise<[ReaderResult, TortureRegistry]> {
  const layer = makeLayer({ seed: 21, files: 8, fileBytes: 3 << 20 });
  const registry = await TortureRegistry.start(new Map([["faulty", layer]]));
  stage.defer(() => registry[Symbol.asyncDispose]());
  const words = [...(await stage.index(layer)), "cachesize=8M", `timeout=${TIMEOUT_MS}ms`, `onerror=${onError}`];
  const options = { words, cacheDirectory: `${stage.cacheDirectory}-${onError}` };
  const mountpoint = await stage.mount(registry.reference("faulty"), `mnt-${onError}`, options);
  const readers = Array.from({ length: READERS }, (_, i) =>
    stage.startReader(mountpoint, layer.shape, seconds, 1000 + i),
  );
  const random = new Random(0x2545f491);
  const names = Object.keys(troubles);
  const end = Date.now() + seconds * 1000;
  for (let turn = 0; Date.now() < end; turn++) {
    const trouble = troubles[names[turn % names.length] ?? ""];
    if (!trouble) break;
    await trouble.begin(registry);
    // Longer than the timeout with onerror=eio, so that reads do fail.
    const [least, more] = onError === "eio" ? [TIMEOUT_MS, 2 * TIMEOUT_MS] : [200, stage.short ? 700 : 2 * TIMEOUT_MS];
    const troubleMs = Math.min(least + random.below(more), Math.max(0, end - Date.now()));
    await delay(troubleMs, undefined, { signal: stage.signal });
    await trouble.end(registry);
    await delay(100 + random.below(stage.short ? 100 : 900), undefined, { signal: stage.signal });
  }
  const result = sum(await Promise.all(readers.map((reader) => reader.result)));
  await stage.unmount(mountpoint);
  return [result, registry];
}

/** A registry that is killed, stalls, resets, refuses and cuts short, under eight readers. */
export async function registryFaults(stage: Stage): Promise<Outcome> {
  const found = new Findings();
  // At the same time, each with a registry and a cache of its own: most of it is waiting.
  const kinds = ["retry", "eio"] as const;
  const runs = await Promise.all(kinds.map((onError) => run(stage, onError, stage.seconds)));
  for (const [i, [result, registry]] of runs.entries()) {
    const onError = kinds[i] ?? "eio";
    found.readers(`onerror=${onError}`, result, onError === "eio" ? ["EIO"] : []);
    const faults = [...registry.faults]
      .filter(([fault]) => fault !== "none")
      .reduce((all, [, count]) => all + count, 0);
    found.figure(`onerror=${onError}: requests answered badly`, faults);
    if (onError === "retry") continue;
    found.figure("onerror=eio: slowest EIO, ms", result.slowestErrorMs);
    found.want(
      result.slowestErrorMs <= TIMEOUT_MS + 1000,
      `an EIO took ${result.slowestErrorMs} ms; want at most the timeout of ${TIMEOUT_MS} ms and a second`,
    );
  }
  return found.outcome();
}
