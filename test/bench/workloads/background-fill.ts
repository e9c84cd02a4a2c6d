import { setTimeout as delay } from "node:timers/promises";
import type { Bench } from "../bench.js";
import { type Figure, Pairs } from "../figures.js";
import type { OcifsMount } from "../mounts.js";
import { pull, pullAndUnpack } from "../pull.js";
import { type LinkName, linkWords } from "../shaped-link.js";
import { timed } from "../time.js";

const option = "prefetch=all";
const POLL_MS = 50;
/** Many times what 80 MB take over the slow link. */
const FILL_DEADLINE_MS = 300_000;

/** All of an image into the cache, decoded and checked, with nobody reading. */
export async function backgroundFill(bench: Bench): Promise<Figure[]> {
  return [...(await fillOver(bench, "shaped")), ...(await fillOver(bench, "loopback"))];
}

async function fillOver(bench: Bench, link: LinkName): Promise<Figure[]> {
  const host = await bench.hostOver(link);
  const beside = { download: new Pairs(), unpack: new Pairs() };
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`background fill, ${linkWords[link]}, ${i + 1} of ${bench.repeats}`);
    const ours = await fill(bench, link);
    const work = await bench.freshDirectory("pull");
    await bench.dropCaches();
    const download = await timed(() => pull(bench, host, work));
    await bench.discard(work);
    await bench.dropCaches();
    const unpacked = await bench.freshDirectory("pull");
    const unpack = await timed(() => pullAndUnpack(bench, host, unpacked));
    await bench.discard(unpacked);
    beside.download.add(ours, download.ms);
    beside.unpack.add(ours, unpack.ms);
  }
  const about = {
    workload: "background fill",
    name: `${linkWords[link]}, mount included`,
    unit: "ms",
    command: `mount.ocifs IMAGE MNT -o ${option}; ocifs status --json until all layers are complete`,
  } as const;
  return [
    beside.download.toFigure("time", { ...about, referenceName: "skopeo copy" }),
    beside.unpack.toFigure("time", { ...about, referenceName: "pull + unpack" }),
  ];
}

async function fill(bench: Bench, link: LinkName): Promise<number> {
  const cache = await (await bench.program()).coldCache();
  const request = await bench.programRequest(link, cache, [option]);
  await bench.dropCaches();
  const begin = process.hrtime.bigint();
  let ms = Number.NaN;
  {
    await using mount = await bench.mountAs(request);
    await filled(bench, mount);
    ms = Number(process.hrtime.bigint() - begin) / 1e6;
  }
  await bench.discard(cache);
  return ms;
}

async function filled(bench: Bench, mount: OcifsMount): Promise<void> {
  const deadline = Date.now() + FILL_DEADLINE_MS;
  for (;;) {
    const { layers, errors } = await mount.status();
    if (errors > 0) throw new Error(`background fill: ocifs status counts ${errors} errors`);
    if (layers.every(({ complete }) => complete)) return;
    if (Date.now() > deadline) {
      const got = layers.map(({ fill }) => `${fill.state}, ${fill.bytesLeft} bytes left`).join("; ");
      throw new Error(`background fill: after ${FILL_DEADLINE_MS / 1000} s: ${got}`);
    }
    await delay(POLL_MS, undefined, { signal: bench.signal });
  }
}
