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
  // Disks of virtual machines vary more than anything else here.
  const rounds = 2 * bench.repeats;
  for (let i = 0; i < rounds; i++) {
    bench.say(`sequential read, ${i + 1} of ${rounds}`);
    const afterDrop = async (path: string, at: number) => {
      await bench.dropCaches();
      return megabytesPerSecond(await bench.read("seq", path, at, sizeBytes));
    };
    // A virtual disk may be faster the second time, so neither is always first.
    const referenceFirst = i % 2 === 0 ? await afterDrop(data, offset) : undefined;
    const got = await afterDrop(ours, 0);
    cold.add(got, referenceFirst ?? (await afterDrop(data, offset)));
    await bench.forgetPages(ours);
    await bench.read("seq", ours, 0, sizeBytes);
    // What such a read leaves in the page cache is what this checks.
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

/**
 * Random reads that all reach the daemon and find their bytes there, beside fuse-native with two handlers: bytes from memory,
 * the simplest there is, and bytes from a file by fs.read, which is the work that we do.
 */
export async function warmRandom(bench: Bench): Promise<Figure[]> {
  const { path, sizeBytes } = wellKnown.random;
  const original = await bench.extracted("large", path);
  await using mount = await bench.mount("large");
  const ours = join(mount.directory, path);
  // All of the file into our cache, and its bytes into the page cache below it; the same for the original.
  await bench.read("seq", ours, 0, sizeBytes);
  await bench.read("seq", original, 0, sizeBytes);
  await using memory = await mountFuseNative(bench, "memory", original);
  await using file = await mountFuseNative(bench, "file", original);
  const references = [
    { name: "fuse-native, memory", path: join(memory.directory, "file") },
    { name: "fuse-native, fs.read", path: join(file.directory, "file") },
  ];
  const truth = await bench.read("random", original, randomCount, 4, 0, "buffered", "hash");
  const figures: Figure[] = [];
  for (const mode of ["advised", "direct"]) {
    for (const threads of [1, 4]) {
      const readsBefore = (await mount.status()).reads;
      for (const each of [ours, ...references.map((reference) => reference.path)]) {
        requireSame(
          await bench.read("random", each, randomCount, threads, 0, mode, "hash"),
          truth,
          `random reads of ${each}`,
        );
      }
      const reads = (await mount.status()).reads - readsBefore;
      if (reads < randomCount) throw new Error(`random reads: ${reads} of ${randomCount} reached the daemon`);
      figures.push(...(await measureRandom(bench, ours, references, mode, threads)));
    }
  }
  return figures;
}

async function measureRandom(
  bench: Bench,
  ours: string,
  references: readonly { readonly name: string; readonly path: string }[],
  mode: string,
  threads: number,
): Promise<Figure[]> {
  const pairs = references.map(() => new Pairs());
  // Short and at the mercy of the scheduler, so more of them.
  const rounds = 3 * bench.repeats;
  bench.say(`random reads, ${mode}, threads: ${threads}, ${rounds} rounds`);
  for (let i = 0; i < rounds; i++) {
    const words = [randomCount, threads, i + 1, mode];
    const got = readsPerSecond(await bench.read("random", ours, ...words));
    for (const [k, reference] of references.entries()) {
      pairs[k]?.add(got, readsPerSecond(await bench.read("random", reference.path, ...words)));
    }
  }
  return references.flatMap(
    (reference, k) =>
      pairs[k]?.toFigure(
        "speed",
        {
          workload: "warm random",
          name: `4 KiB, ${mode === "direct" ? "O_DIRECT" : "page cache"}, ${threads === 1 ? "1 thread" : `${threads} threads`}`,
          unit: "reads/s",
          command: `tool random MNT/${wellKnown.random.path} ${randomCount} ${threads} SEED ${mode}`,
          referenceName: reference.name,
        },
        { text: "≥ 3.00 ×", isMet: (ratio) => ratio.median >= 3 },
      ) ?? [],
  );
}
