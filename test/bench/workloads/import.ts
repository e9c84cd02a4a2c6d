import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../../../src/base/cleanup.js";
import { silentLog } from "../../../src/base/log.js";
import { unlimitedRoom } from "../../../src/cache/room.js";
import { Destination } from "../../../src/content/destination.js";
import { importTree, openStores } from "../../../src/content/import-image.js";
import { openMountableImage } from "../../../src/image/mountable-image.js";
import type { Bench } from "../bench.js";
import { atLeast, type Figure, Pairs } from "../figures.js";

/** A layer from its content store to a tree on XFS, beside tar(1) unpacking the same layer there: as it is stored, and as a plain tar. */
export async function importLayer(bench: Bench): Promise<Figure[]> {
  const { path: blob } = await bench.layer("debian");
  await using cleanup = new Cleanup();
  const work = await bench.freshDirectory("import");
  const xfs = join(work, "xfs");
  await mkdir(xfs);
  await bench.run("truncate", ["-s", "8G", join(work, "image")]);
  await bench.run("mkfs.xfs", ["-q", "-m", "reflink=1", join(work, "image")]);
  await bench.run("mount", ["-o", "loop", join(work, "image"), xfs]);
  cleanup.defer(async () => void (await bench.run("umount", ["-l", xfs])));
  const options = { source: `file:${blob}`, insecure: false, verify: "blob", cacheDir: join(xfs, "cache") } as const;
  const image = cleanup.add(await openMountableImage(options, silentLog));
  const { signal } = new AbortController();
  const stores = await openStores(image.layers, unlimitedRoom, cleanup, signal);
  const tar = join(xfs, "layer.tar");
  await bench.measurePipeline('gunzip -c "$1" >"$2"', blob, tar);
  const stored = new Pairs();
  const plain = new Pairs();
  const flushed = new Pairs();
  const processor = new Pairs();
  // Nothing is removed before the end: XFS frees inodes long after rm(1) has ended, and whoever comes next would pay for it.
  const settled = () => bench.run("sync", ["--file-system", xfs]);
  for (let i = 0; i <= bench.repeats; i++) {
    bench.say(`import of debian, ${i} of ${bench.repeats}`);
    const unpack = async (name: string, script: string, from: string) => {
      const target = join(xfs, `${name}-${i}`);
      await mkdir(target);
      await settled();
      const { ns, cpuNs } = await bench.measurePipeline(script, from, target);
      return { ms: ns / 1e6, cpuMs: cpuNs / 1e6 };
    };
    await settled();
    const cpuBefore = process.cpuUsage();
    const started = performance.now();
    {
      await using destination = await Destination.create(join(xfs, `ours-${i}`));
      await importTree(image, stores, destination, signal);
      await destination.commit(false);
    }
    const ms = performance.now() - started;
    const { user, system } = process.cpuUsage(cpuBefore);
    await settled();
    const msFlushed = performance.now() - started;
    const gzip = await unpack("tar", 'tar -xzf "$1" -C "$2"', blob);
    const bare = await unpack("plain", 'tar -xf "$1" -C "$2"', tar);
    const synced = await unpack("synced", 'tar -xzf "$1" -C "$2"; sync --file-system "$2"', blob);
    // The first one warms up both.
    if (i === 0) continue;
    stored.add(ms, gzip.ms);
    plain.add(ms, bare.ms);
    flushed.add(msFlushed, synced.ms);
    processor.add((user + system) / 1e3, gzip.cpuMs);
  }
  const common = { workload: "import", unit: "ms", command: "importTree from a content store" } as const;
  return [
    stored.toFigure("time", { ...common, name: "layer to a tree, warm", referenceName: "tar -xzf" }, atLeast(5)),
    flushed.toFigure("time", { ...common, name: "the same and flushed", referenceName: "tar -xzf; sync" }, atLeast(5)),
    processor.toFigure("time", { ...common, name: "processor time of the first", referenceName: "tar -xzf" }),
    plain.toFigure("time", { ...common, name: "layer to a tree, warm", referenceName: "tar -xf of the plain tar" }),
  ];
}
