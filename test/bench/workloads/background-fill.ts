import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Bench } from "../bench.js";
import { type Figure, Pairs } from "../figures.js";
import { wellKnown } from "../layers.js";

/** A fill that takes longer than this hangs. */
const FILL_DEADLINE_MS = 120_000;
const coldReads = 20;

/** How fast a whole layer is completed in the background, and what a cold read waits meanwhile. */
export async function backgroundFill(bench: Bench): Promise<Figure[]> {
  const { path, sizeBytes } = await bench.layer("medium");
  const rate = new Pairs();
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`background fill, ${i + 1} of ${bench.repeats}`);
    const reference = await bench.measurePipeline('gunzip -c "$1" | sha256sum', path);
    const logPath = join(await bench.freshDirectory("log"), "log");
    const request = { ...(await bench.mountRequest("medium")), options: ["prefetch=all", `log=info:${logPath}`] };
    await using mount = await bench.mountAs(request);
    const ms = await fillTime(logPath, bench.signal);
    const [layer] = (await mount.status()).layers;
    if (!layer?.complete) throw new Error(`background fill: the layer is not complete: ${JSON.stringify(layer)}`);
    rate.add(sizeBytes / 1e3 / ms, sizeBytes / 1e3 / (reference.ns / 1e6));
  }
  const workload = "background fill";
  return [
    rate.toFigure("speed", {
      workload,
      name: `${(sizeBytes / 1e6).toFixed(0)} MB of gzip layer from a registry on loopback to complete, verified and flushed`,
      unit: "MB/s",
      command: "mount.ocifs IMAGE MNT … -o prefetch=all,log=info:LOG; between two lines of LOG",
      referenceName: "gunzip -c LAYER | sha256sum",
    }),
    await latency(bench),
  ];
}

/** Cold reads of 4 KiB from the end of the layer while its beginning is being filled, and without a fill. */
async function latency(bench: Bench): Promise<Figure> {
  const file = wellKnown.late;
  const original = await bench.extracted("medium", file.path);
  const pairs = new Pairs();
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`cold reads during a fill, ${i + 1} of ${bench.repeats}`);
    const words = [coldReads, 1, i + 1, "direct", "hash"];
    const truth = await bench.read("random", original, ...words);
    const times: number[] = [];
    for (const prefetch of ["all", "none"]) {
      const request = { ...(await bench.mountRequest("medium")), options: [`prefetch=${prefetch}`] };
      await using mount = await bench.mountAs(request);
      const got = await bench.read("random", join(mount.directory, file.path), ...words);
      if (got.hash !== truth.hash) throw new Error(`prefetch=${prefetch}: wrong bytes through the mount`);
      times.push(got.ns / 1e6 / coldReads);
    }
    const [during = Number.NaN, without = Number.NaN] = times;
    pairs.add(during, without);
  }
  return pairs.toFigure("time", {
    workload: "background fill",
    name: "a cold read of 4 KiB during a fill",
    unit: "ms",
    command: `mount.ocifs IMAGE MNT … -o prefetch=all; tool random MNT/${file.path} ${coldReads} 1 SEED direct`,
    referenceName: "with prefetch=none",
  });
}

/** Milliseconds between the daemon's lines about the start and the end of the fill. */
async function fillTime(logPath: string, signal: AbortSignal): Promise<number> {
  const deadline = Date.now() + FILL_DEADLINE_MS;
  for (;;) {
    const text = await readFile(logPath, "utf8");
    const lines = text
      .split("\n")
      .filter((line) => line.endsWith("}"))
      .map((line) => JSON.parse(line) as { time: number; msg: string });
    const begin = lines.find(({ msg }) => msg.startsWith("filling a layer"));
    const end = lines.find(({ msg }) => msg.startsWith("a layer is complete"));
    if (begin && end) return end.time - begin.time;
    if (Date.now() > deadline) throw new Error(`background fill: not complete within ${FILL_DEADLINE_MS} ms: ${text}`);
    await delay(20, undefined, { signal });
  }
}
