import type { Bench, ReadResult } from "../bench.js";
import { atMost, type Figure, Pairs } from "../figures.js";
import { pullAndUnpack, pullWords } from "../pull.js";
import { type LinkName, linkWords } from "../shaped-link.js";
import { timed } from "../time.js";
import { requireSame } from "../truth.js";

/** Every file of an image once, with nothing cached but its indexes: where a plain download is at its best. */
export async function readEverything(bench: Bench): Promise<Figure[]> {
  return [await readOver(bench, "shaped"), await readOver(bench, "loopback")];
}

async function readOver(bench: Bench, link: LinkName): Promise<Figure> {
  const image = await bench.program();
  const host = await bench.hostOver(link);
  const pairs = new Pairs();
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`read everything, ${linkWords[link]}, ${i + 1} of ${bench.repeats}`);
    const ours = await readMounted(bench, link, await image.coldCache());
    const work = await bench.freshDirectory("pull");
    await bench.dropCaches();
    const theirs = await timed(async () => await bench.read("tree", await pullAndUnpack(bench, host, work)));
    requireSame(ours.result, theirs.result, "read everything");
    pairs.add(ours.ms, theirs.ms);
    await bench.discard(work);
  }
  return pairs.toFigure(
    "time",
    {
      workload: "read everything",
      name: `${linkWords[link]}, cold, mount included`,
      unit: "ms",
      command: `mount.ocifs IMAGE MNT; tool tree MNT; beside ${pullWords}; tool tree BUNDLE/rootfs`,
      referenceName: "pull + unpack + read",
    },
    link === "shaped" ? atMost(1.1) : undefined,
  );
}

async function readMounted(bench: Bench, link: LinkName, cache: string): Promise<{ ms: number; result: ReadResult }> {
  const request = await bench.programRequest(link, cache);
  await bench.dropCaches();
  const begin = process.hrtime.bigint();
  let ms = Number.NaN;
  let result: ReadResult;
  {
    await using mount = await bench.mountAs(request);
    result = await bench.read("tree", mount.directory);
    // A reader waits neither for the unmount nor for the daemon's end.
    ms = Number(process.hrtime.bigint() - begin) / 1e6;
  }
  await bench.discard(cache);
  return { ms, result };
}
