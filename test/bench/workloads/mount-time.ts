import type { Bench } from "../bench.js";
import { type Figure, Pairs } from "../figures.js";

/** From the start of mount.ocifs to the end of the first ls, beside what Node alone takes to start. */
export async function mountTime(bench: Bench): Promise<Figure[]> {
  const cold = new Pairs();
  const warm = new Pairs();
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`mount, ${i + 1} of ${bench.repeats}`);
    const bare = await bench.measure(process.execPath, ["-e", "0"]);
    const cacheDirectory = await bench.freshDirectory("cache");
    for (const pairs of [cold, warm]) {
      const request = await bench.mountRequest("debian", cacheDirectory);
      const begin = process.hrtime.bigint();
      await using mount = await bench.mountAs(request, async () => {
        const { stdout } = await bench.run("ls", [request.directory]);
        pairs.add(Number(process.hrtime.bigint() - begin) / 1e6, bare.ns / 1e6);
        if (!stdout.split("\n").includes("etc")) throw new Error(`mount: no /etc in ${request.directory}`);
      });
      const { errors } = await mount.status();
      if (errors > 0) throw new Error(`mount: ocifs status counts ${errors} errors`);
    }
  }
  const about = {
    workload: "mount",
    unit: "ms",
    command: "time sh -c 'mount.ocifs IMAGE MNT oci.layer=0 oci.tarindex=T oci.zinfo=Z && ls MNT'",
    referenceName: "node -e 0",
  } as const;
  return [
    cold.toFigure("size", { ...about, name: "to the first ls, empty cache" }),
    warm.toFigure("size", { ...about, name: "to the first ls, cache kept" }),
  ];
}
