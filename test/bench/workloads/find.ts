import { open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { mountErofs } from "../../support/kernel-erofs.js";
import type { Bench } from "../bench.js";
import { type Figure, Pairs } from "../figures.js";
import { mountFuseNative } from "../fuse-native.js";
import { deviceBytes } from "../layer-map.js";

const script = 'find "$1" -printf "%s\\n" | sort -n | sha256sum';

/** All names and sizes of 60,000 entries with cold caches, beside the kernel's own EROFS on the same index, and fuse-native. */
export async function findAll(bench: Bench): Promise<Figure[]> {
  const index = await bench.index("entries-60k");
  await using mount = await bench.mount("entries-60k");
  // The kernel wants a device of the right size; find reads none of its bytes.
  const device = join(await bench.freshDirectory("device"), "device");
  const file = await open(device, "w");
  await file.truncate(await deviceBytes(index));
  await file.close();
  await using kernel = await mountErofs(index.tarindexPath, [device]);
  await using other = await mountFuseNative(bench, "tree", await writeListing(bench, mount.directory));

  const beside = { kernel: new Pairs(), other: new Pairs(), hot: new Pairs() };
  const timed = async (directory: string) => {
    await bench.dropCaches();
    const { ns } = await bench.measure("find", [directory, "-printf", "%s\n"]);
    return ns / 1e6;
  };
  const hotTimed = async (directory: string) => {
    const { ns } = await bench.measure("find", [directory, "-printf", "%s\n"]);
    return ns / 1e6;
  };
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`find, ${i + 1} of ${bench.repeats}`);
    const byKernel = await timed(kernel.directory);
    const kernelHot = await hotTimed(kernel.directory);
    const byOther = await timed(other.directory);
    const ours = await timed(mount.directory);
    beside.kernel.add(ours, byKernel);
    beside.other.add(ours, byOther);
    beside.hot.add(await hotTimed(mount.directory), kernelHot);
  }
  const [got, want] = [await bench.pipeline(script, mount.directory), await bench.pipeline(script, kernel.directory)];
  if (got.stdout !== want.stdout)
    throw new Error("find: sizes through the mount differ from those of the kernel's EROFS");

  const workload = "find";
  const command = "echo 3 > /proc/sys/vm/drop_caches; find MNT -printf '%s\\n'";
  const name = "60,000 entries, cold";
  return [
    beside.kernel.toFigure("time", { workload, name, unit: "ms", command, referenceName: "kernel EROFS" }),
    beside.other.toFigure("time", { workload, name, unit: "ms", command, referenceName: "fuse-native" }),
    beside.hot.toFigure("time", {
      workload,
      name: "60,000 entries, again at once",
      unit: "ms",
      command: "find MNT -printf '%s\\n'",
      referenceName: "kernel EROFS",
    }),
  ];
}

/** The tree as fuse-native-server.ts wants it. */
async function writeListing(bench: Bench, directory: string): Promise<string> {
  const { stdout } = await bench.run("find", [directory, "-printf", "/%P\\t%y\\t%s\\n"]);
  const modes: Readonly<Record<string, number>> = { d: 0o040755, f: 0o100644, l: 0o120777 };
  const listing = stdout
    .trimEnd()
    .split("\n")
    .map((line) => {
      const [path = "", type = "", size = ""] = line.split("\t");
      return [path, modes[type], Number(size)];
    });
  const path = join(await bench.freshDirectory("listing"), "listing.json");
  await writeFile(path, JSON.stringify(listing));
  return path;
}
