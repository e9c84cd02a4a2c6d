import { join } from "node:path";
import { Cleanup } from "../../../src/base/cleanup.js";
import type { Bench, ReadResult } from "../bench.js";
import { atLeast, type Figure, Pairs, type WantedRatio } from "../figures.js";
import { wellKnown } from "../layers.js";
import { cpuMsOf } from "../mounts.js";
import { mountFuseNative, mountKernelErofs, mountLibfuse, mountOtherTools } from "../reference-mounts.js";
import { requireSame } from "../truth.js";

const randomCount = 16_000;
/** Of file systems that decompress 128 KiB for each 4 KiB. */
const slowCount = 1_000;
const readers = [1, 4, 16] as const;
/** Short and at the mercy of the scheduler, so more of them. */
const ROUNDS_PER_REPEAT = 2;

/** advised, direct: each read is a request to the daemon, which has the bytes. cached: the page cache has them. */
type Mode = "advised" | "direct" | "cached";

const modeWords: Readonly<Record<Mode, string>> = {
  advised: "each through the daemon",
  direct: "each through the daemon, O_DIRECT",
  cached: "in the page cache",
};

interface Candidate {
  readonly name: string;
  readonly path: string;
  readonly modes: readonly Mode[];
  /** Reads in one round; default `randomCount`. */
  readonly count?: number;
  /** A server with one thread says nothing new with more readers than that. */
  readonly readersMax?: number;
  readonly want?: WantedRatio;
  /** The process that serves it. */
  readonly pid?: number;
}

/** Random reads of 4 KiB in a file that is all in our cache. */
export async function warmRandom(bench: Bench): Promise<Figure[]> {
  const { path, sizeBytes } = wellKnown.random;
  await using stack = new Cleanup();
  const original = await bench.extracted("large", path);
  const mount = stack.add(await bench.mount("large"));
  const ours = join(mount.directory, path);
  const file = async (kind: "memory" | "file", server: typeof mountLibfuse | typeof mountFuseNative) => {
    const { name, directory, pid } = stack.add(await server(bench, kind, original));
    const modes = ["advised", "direct"] as const;
    return { name, path: join(directory, "file"), modes, ...(pid === undefined ? {} : { pid }) };
  };
  const kernel = stack.add(await mountKernelErofs(bench, "large"));
  const onKernel = { name: kernel.name, path: join(kernel.directory, path) };
  const others = await mountOtherTools(bench, await bench.extracted("large", "data"));
  // EROFS knows no O_DIRECT, and its reads do not ask the daemon: nothing to be compared with a server's.
  const inKernel = bench.driver === "erofs" || bench.driver === "fanotify";
  const modes = inKernel ? (["advised", "cached"] as const) : (["advised", "direct", "cached"] as const);
  const servers: readonly Candidate[] = [
    { ...(await file("file", mountLibfuse)), want: atLeast(1) },
    { ...(await file("memory", mountLibfuse)), want: atLeast(1) },
    { ...(await file("memory", mountFuseNative)), readersMax: 4, want: atLeast(3) },
    { ...(await file("file", mountFuseNative)), readersMax: 4, want: atLeast(3) },
  ];
  const references: readonly Candidate[] = [
    ...(inKernel ? [] : servers),
    { ...onKernel, modes: ["advised"] },
    { ...onKernel, modes: ["cached"], ...(inKernel ? { want: atLeast(1 / 1.15) } : {}) },
    { name: "files on disk", path: original, modes: ["cached"] },
    ...others.map((tree) => ({
      name: stack.add(tree).name,
      path: join(tree.directory, path.replace(/^data\//, "")),
      count: slowCount,
      modes: ["advised", "cached"] as const,
    })),
  ];
  // All of the file into our cache, and its bytes into the page cache below it; the same for the original.
  for (const each of [ours, ...references.map((reference) => reference.path)])
    await bench.read("seq", each, 0, sizeBytes);
  const truth = await bench.read("random", original, randomCount, 4, 0, "cached", "hash");
  const figures: Figure[] = [];
  for (const mode of modes) {
    for (const threads of readers) {
      const chosen = references.filter((one) => one.modes.includes(mode) && threads <= (one.readersMax ?? threads));
      const readsBefore = (await mount.status()).reads;
      for (const each of [{ path: ours }, ...chosen.filter((one) => one.count === undefined)]) {
        const words = [randomCount, threads, 0, mode, "hash"];
        requireSame(await bench.read("random", each.path, ...words), truth, `random reads of ${each.path}`);
      }
      const reads = (await mount.status()).reads - readsBefore;
      if (bench.driver === "fuse" && mode !== "cached" && reads < randomCount) {
        throw new Error(`random reads: ${reads} of ${randomCount} reached the daemon`);
      }
      figures.push(...(await measureRandom(bench, { path: ours, pid: mount.pid }, chosen, mode, threads)));
    }
  }
  return figures;
}

async function measureRandom(
  bench: Bench,
  ours: Pick<Candidate, "path" | "pid">,
  references: readonly Candidate[],
  mode: Mode,
  threads: number,
): Promise<Figure[]> {
  const pairs = references.map(() => new Pairs());
  const work = references.map(() => new Pairs());
  const rounds = ROUNDS_PER_REPEAT * bench.repeats;
  bench.say(`random reads, ${modeWords[mode]}, readers: ${threads}, ${rounds} rounds`);
  for (let i = 0; i < rounds; i++) {
    const read = async ({ path, pid, count = randomCount }: Pick<Candidate, "path" | "pid" | "count">) => {
      const before = pid === undefined ? Number.NaN : await cpuMsOf(pid);
      const speed = readsPerSecond(await bench.read("random", path, count, threads, i + 1, mode));
      const cpuMs = pid === undefined ? Number.NaN : (await cpuMsOf(pid)) - before;
      return { speed, microseconds: (cpuMs * 1000) / count };
    };
    const got = await read(ours);
    for (const [k, reference] of references.entries()) {
      const theirs = await read(reference);
      pairs[k]?.add(got.speed, theirs.speed);
      if (reference.pid !== undefined) work[k]?.add(got.microseconds, theirs.microseconds);
    }
  }
  const about = {
    workload: "warm random 4 KiB",
    name: `${threads === 1 ? "1 reader" : `${threads} readers`}, ${modeWords[mode]}`,
    unit: "reads/s",
    command: `tool random FILE ${randomCount} ${threads} SEED ${mode}`,
  } as const;
  const note = "User and system time of the server; other work of the machine hardly moves it";
  const served = { ...about, name: `${about.name}, server's time a read`, unit: "µs", note } as const;
  return references.flatMap(({ name: referenceName, want, pid }, k) => {
    const speed = pairs[k]?.toFigure("speed", { ...about, referenceName }, want);
    const time =
      pid === undefined || mode === "cached" ? undefined : work[k]?.toFigure("time", { ...served, referenceName });
    return [speed, time].flatMap((figure) => figure ?? []);
  });
}

function readsPerSecond({ bytes, ns }: ReadResult): number {
  return bytes / 4096 / (ns / 1e9);
}
