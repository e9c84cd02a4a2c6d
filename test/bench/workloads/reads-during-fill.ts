import { join } from "node:path";
import type { Bench } from "../bench.js";
import { type Figure, Pairs } from "../figures.js";
import { wellKnown } from "../layers.js";

const coldReads = 20;

/** Cold reads of 4 KiB from the end of the layer while its beginning is being filled, and without a fill. */
export async function readsDuringFill(bench: Bench): Promise<Figure[]> {
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
  const figure = pairs.toFigure("time", {
    workload: "background fill",
    name: "a cold read of 4 KiB during a fill",
    unit: "ms",
    command: `mount.ocifs IMAGE MNT … -o prefetch=all; tool random MNT/${file.path} ${coldReads} 1 SEED direct`,
    referenceName: "with prefetch=none",
  });
  return [figure];
}
