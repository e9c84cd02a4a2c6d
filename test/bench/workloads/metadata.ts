import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../../../src/base/cleanup.js";
import type { Bench } from "../bench.js";
import { atMost, type Figure, Pairs, type WantedRatio } from "../figures.js";
import { mountFuseNative, mountKernelErofs, mountOtherTools, type Tree } from "../reference-mounts.js";

const layer = "entries-60k";
const listing = 'find "$1" -printf "%P %y %s %m\\n" | sort | sha256sum';

interface Command {
  readonly workload: string;
  readonly words: string;
  /** "$1" is the directory. */
  readonly script: string;
  /** Of the time that the kernel's EROFS takes, when nothing is cold. */
  readonly want?: WantedRatio;
}

/** Names, types and sizes of 60,000 entries. */
export function findAll(bench: Bench): Promise<Figure[]> {
  const words = "find MNT -printf '%s\\n' >/dev/null";
  const script = 'find "$1" -printf "%s\\n" >/dev/null';
  return measureListing(bench, { workload: "find", words, script, want: atMost(3) });
}

/** The same tree with times, owners and links, sorted; ls also asks for extended attributes. */
export function listAll(bench: Bench): Promise<Figure[]> {
  return measureListing(bench, {
    workload: "ls -lR",
    words: "ls -lR MNT >/dev/null",
    script: 'ls -lR "$1" >/dev/null',
  });
}

async function measureListing(bench: Bench, command: Command): Promise<Figure[]> {
  await using stack = new Cleanup();
  const mount = stack.add(await bench.mount(layer));
  const references: readonly Tree[] = [
    stack.add(await mountKernelErofs(bench, layer)),
    { name: "files on disk", directory: await bench.extracted(layer) },
    stack.add(await mountFuseNative(bench, "tree", await writeListing(bench, mount.directory))),
    ...(await mountOtherTools(bench, await bench.extracted(layer))).map((other) => stack.add(other)),
  ];
  const [got, want] = [await bench.pipeline(listing, mount.directory), await listingOf(bench, references[0])];
  if (got.stdout !== want) throw new Error(`${command.workload}: the tree differs from that of the kernel's EROFS`);

  const cold = references.map(() => new Pairs());
  const warm = references.map(() => new Pairs());
  const timed = async (directory: string) => (await bench.measurePipeline(command.script, directory)).ns / 1e6;
  const coldThenWarm = async (directory: string) => {
    await bench.dropCaches();
    return [await timed(directory), await timed(directory)] as const;
  };
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`${command.workload}, ${i + 1} of ${bench.repeats}`);
    const ours = await coldThenWarm(mount.directory);
    for (const [k, reference] of references.entries()) {
      const theirs = await coldThenWarm(reference.directory);
      cold[k]?.add(ours[0], theirs[0]);
      warm[k]?.add(ours[1], theirs[1]);
    }
  }
  const { workload } = command;
  return references.flatMap(({ name }, k) => {
    const about = { workload, unit: "ms", referenceName: name } as const;
    const held = k === 0 ? command.want : undefined;
    const coldly = `echo 3 >/proc/sys/vm/drop_caches; ${command.words}`;
    return [
      cold[k]?.toFigure("time", { ...about, name: "60,000 entries, after drop_caches", command: coldly }, held) ?? [],
      warm[k]?.toFigure("time", { ...about, name: "60,000 entries, again at once", command: command.words }, held) ??
        [],
    ].flat();
  });
}

async function listingOf(bench: Bench, tree: Tree | undefined): Promise<string> {
  return (await bench.pipeline(listing, tree?.directory ?? "")).stdout;
}

/** The tree as fuse-native-server.ts wants it. */
async function writeListing(bench: Bench, directory: string): Promise<string> {
  const { stdout } = await bench.run("find", [directory, "-printf", "/%P\\t%y\\t%s\\n"]);
  const modes: Readonly<Record<string, number>> = { d: 0o040755, f: 0o100644, l: 0o120777 };
  const lines = stdout
    .trimEnd()
    .split("\n")
    .map((line) => {
      const [path = "", type = "", size = ""] = line.split("\t");
      return [path, modes[type], Number(size)];
    });
  const path = join(await bench.freshDirectory("listing"), "listing.json");
  await writeFile(path, JSON.stringify(lines));
  return path;
}
