import { join } from "node:path";
import { Cleanup } from "../../../src/base/cleanup.js";
import type { Bench, ReadResult } from "../bench.js";
import { atLeast, type Figure, Pairs } from "../figures.js";
import { tarRange } from "../layer-map.js";
import { wellKnown } from "../layers.js";
import { mountKernelErofs, mountOtherTools } from "../reference-mounts.js";
import { requireSame } from "../truth.js";

/** A file to read from, at `offset`. */
interface Place {
  readonly name: string;
  readonly path: string;
  readonly offset: number;
}

/** Repeats in which the order of the candidates changes, so that a virtual disk that is faster the second time helps nobody. */
const ROUNDS_PER_REPEAT = 2;

/** A large file front to back, all of it in our cache. */
export async function warmSequential(bench: Bench): Promise<Figure[]> {
  const { path, sizeBytes } = wellKnown.sequential;
  await using stack = new Cleanup();
  const original = await bench.extracted("large", path);
  const truth = await bench.read("seq", original, 0, sizeBytes, "hash");
  const mount = stack.add(await bench.mount("large"));
  const ours: Place = { name: "ocifs", path: join(mount.directory, path), offset: 0 };
  requireSame(await bench.read("seq", ours.path, 0, sizeBytes, "hash"), truth, "cold read through the mount");
  const trees = [
    stack.add(await mountKernelErofs(bench, "large")),
    ...(await mountOtherTools(bench, await bench.extracted("large", "data"))).map((other) => stack.add(other)),
  ];
  const references: Place[] = [
    { name: "files on disk", path: original, offset: 0 },
    {
      name: "cache file",
      path: await mount.dataFile(),
      offset: (await tarRange(await bench.index("large"), path)).offset,
    },
    ...(await Promise.all(
      trees.map(async (tree, i) => {
        // Other tools have the directory alone.
        const inTree = i === 0 ? path : path.replace(/^data\//, "");
        return { name: tree.name, path: join(tree.directory, inTree), offset: 0 };
      }),
    )),
  ];
  const speedOf = ({ bytes, ns }: ReadResult) => bytes / 1e6 / (ns / 1e9);
  const read = async ({ path, offset }: Place) => speedOf(await bench.read("seq", path, offset, sizeBytes));
  const cold = references.map(() => new Pairs());
  const hot = references.map(() => new Pairs());
  const filled: number[] = [];
  const filledBeside: number[][] = references.map(() => []);
  const rounds = ROUNDS_PER_REPEAT * bench.repeats;
  for (let i = 0; i < rounds; i++) {
    bench.say(`sequential read, ${i + 1} of ${rounds}`);
    const all = [ours, ...references];
    const speeds = new Map<Place, { cold: number; hot: number }>();
    for (const place of i % 2 === 0 ? all : all.toReversed()) {
      await bench.dropCaches(place.path);
      speeds.set(place, { cold: await read(place), hot: await read(place) });
    }
    const got = speeds.get(ours);
    // The cache's file is in memory now, and the mount's pages go: every byte passes through the daemon.
    await bench.read("seq", references[1]?.path ?? "", references[1]?.offset ?? 0, sizeBytes);
    await bench.forgetPages(ours.path);
    filled.push(await read(ours));
    // What such a read leaves in the page cache is what this checks.
    requireSame(await bench.read("seq", ours.path, 0, sizeBytes, "hash"), truth, "warm read through the mount");
    for (const [k, reference] of references.entries()) {
      const theirs = speeds.get(reference);
      if (got === undefined || theirs === undefined) continue;
      cold[k]?.add(got.cold, theirs.cold);
      hot[k]?.add(got.hot, theirs.hot);
      filledBeside[k]?.push(theirs.hot);
    }
  }
  const tool = `tool seq FILE OFFSET ${sizeBytes}`;
  const about = (k: number) =>
    ({ workload: "warm sequential", unit: "MB/s", referenceName: references[k]?.name ?? "" }) as const;
  return references.flatMap((_, k) => {
    const promise = k === 0 ? atLeast(0.7) : undefined;
    const dropped = `echo 3 >/proc/sys/vm/drop_caches; ${tool}`;
    const figures = [
      cold[k]?.toFigure("speed", { ...about(k), name: "256 MiB, after drop_caches", command: dropped }, promise),
      hot[k]?.toFigure("speed", { ...about(k), name: "256 MiB, again at once", command: tool }, promise),
    ];
    if (k === 1) {
      const through = new Pairs();
      for (const [i, speed] of filled.entries()) through.add(speed, filledBeside[k]?.[i] ?? Number.NaN);
      const note = "Every byte passes through the daemon, from memory to memory: what FUSE itself costs";
      const command = `${tool} of the cache's file; posix_fadvise(MNT file, DONTNEED); ${tool}`;
      const name = "256 MiB, cache file in memory, mount not";
      figures.push(through.toFigure("speed", { ...about(k), name, command, note }));
    }
    return figures.flatMap((figure) => figure ?? []);
  });
}
