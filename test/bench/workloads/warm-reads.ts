import { join } from "node:path";
import type { Bench, ReadResult } from "../bench.js";
import { type Figure, Pairs } from "../figures.js";
import { mountFuseNative } from "../fuse-native.js";
import { tarRange } from "../layer-map.js";
import { wellKnown } from "../layers.js";

function megabytesPerSecond({ bytes, ns }: ReadResult): number {
  return bytes / 1e6 / (ns / 1e9);
}

function readsPerSecond({ bytes, ns }: ReadResult): number {
  return bytes / 4096 / (ns / 1e9);
}

function requireSame(got: ReadResult, want: ReadResult, what: string): void {
  if (got.hash !== want.hash || got.bytes !== want.bytes) {
    throw new Error(`${what}: wrong bytes (${got.hash} of ${got.bytes}, want ${want.hash} of ${want.bytes})`);
  }
}

/** A large file front to back, all of it in our cache, beside the same bytes read from the cache's own file. */
export async function warmSequential(bench: Bench): Promise<Figure[]> {
  const { path, sizeBytes } = wellKnown.sequential;
  const { offset } = await tarRange(await bench.index("large"), path);
  const truth = await bench.read("seq", await bench.extracted("large", path), 0, sizeBytes, "hash");
  await using mount = await bench.mount("large");
  const ours = join(mount.directory, path);
  requireSame(await bench.read("seq", ours, 0, sizeBytes, "hash"), truth, "cold read through the mount");
  const data = await mount.dataFile();
  const cold = new Pairs();
  const filled = new Pairs();
  const hot = new Pairs();
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`sequential read, ${i + 1} of ${bench.repeats}`);
    await bench.dropCaches();
    const reference = await bench.read("seq", data, offset, sizeBytes);
    await bench.dropCaches();
    cold.add(megabytesPerSecond(await bench.read("seq", ours, 0, sizeBytes)), megabytesPerSecond(reference));
    // What the timed read left in the page cache is what this checks.
    requireSame(await bench.read("seq", ours, 0, sizeBytes, "hash"), truth, "warm read through the mount");
    const hotReference = megabytesPerSecond(await bench.read("seq", data, offset, sizeBytes));
    hot.add(megabytesPerSecond(await bench.read("seq", ours, 0, sizeBytes)), hotReference);
    await bench.forgetPages(ours);
    filled.add(megabytesPerSecond(await bench.read("seq", ours, 0, sizeBytes)), hotReference);
  }
  const workload = "warm sequential";
  const by = (how: string) => `${how}tool seq MNT/${path} 0 ${sizeBytes}; tool seq CACHE/…/data-* OFFSET ${sizeBytes}`;
  const referenceName = "cache file";
  return [
    cold.toFigure(
      "speed",
      {
        workload,
        name: "256 MiB, after drop_caches",
        unit: "MB/s",
        command: by("echo 3 > /proc/sys/vm/drop_caches before each; "),
        referenceName,
      },
      { text: "≥ 0.60 ×", isMet: (ratio) => ratio.median >= 0.6 },
    ),
    filled.toFigure("speed", {
      workload,
      name: "256 MiB, cache file in memory, mount not",
      unit: "MB/s",
      command: by("posix_fadvise(MNT file, DONTNEED); "),
      referenceName,
      note: "Every byte passes through the daemon; what FUSE itself costs",
    }),
    hot.toFigure("speed", {
      workload,
      name: "256 MiB, both in memory",
      unit: "MB/s",
      command: by(""),
      referenceName,
    }),
  ];
}

const randomCount = 16_000;

/** Random reads that all reach the daemon and find their bytes there, beside the simplest handler of fuse-native. */
export async function warmRandom(bench: Bench): Promise<Figure[]> {
  const { path } = wellKnown.random;
  const original = await bench.extracted("large", path);
  await using mount = await bench.mount("large");
  const ours = join(mount.directory, path);
  // All of the file into our cache, and its bytes into the page cache below it.
  await bench.read("seq", ours, 0, wellKnown.random.sizeBytes);
  await using other = await mountFuseNative(bench, "file", original);
  const theirs = join(other.directory, "file");
  const figures: Figure[] = [];
  for (const mode of ["buffered", "direct"]) {
    for (const threads of [1, 4]) {
      const pairs = new Pairs();
      for (let i = 0; i < bench.repeats; i++) {
        bench.say(`random reads, ${mode}, threads: ${threads}, ${i + 1} of ${bench.repeats}`);
        const words = [randomCount, threads, i + 1, mode];
        const truth = await bench.read("random", original, randomCount, threads, i + 1, "buffered", "hash");
        const reference = await bench.read("random", theirs, ...words, "hash");
        const readsBefore = (await mount.status()).reads;
        const got = await bench.read("random", ours, ...words, "hash");
        requireSame(got, truth, "random reads through the mount");
        requireSame(reference, truth, "random reads through fuse-native");
        const reads = (await mount.status()).reads - readsBefore;
        if (reads < randomCount) throw new Error(`random reads: ${reads} of ${randomCount} reached the daemon`);
        pairs.add(readsPerSecond(got), readsPerSecond(reference));
      }
      figures.push(
        pairs.toFigure(
          "speed",
          {
            workload: "warm random",
            name: `4 KiB, ${mode}, ${threads === 1 ? "1 thread" : `${threads} threads`}`,
            unit: "reads/s",
            command: `tool random MNT/${path} ${randomCount} ${threads} SEED ${mode} hash`,
            referenceName: "fuse-native",
          },
          { text: "≥ 3.00 ×", isMet: (ratio) => ratio.median >= 3 },
        ),
      );
    }
  }
  return figures;
}
