import { mediaTypes } from "../../../src/oci/media-types.js";
import { pushImage, startRegistry } from "../../support/registry.js";
import type { Bench } from "../bench.js";
import { type Figure, Pairs } from "../figures.js";
import { ocifsProgram } from "../mounts.js";

const repository = "bench/image";

/** From the start of mount.ocifs to the end of the first ls, of an image of two layers that was mounted before. */
export async function remountTime(bench: Bench): Promise<Figure[]> {
  // One of its own, since it is stopped.
  const registry = await startRegistry();
  try {
    const files = [await bench.layer("debian"), await bench.layer("files")];
    bench.say("push of an image of two layers");
    const layers = files.map(({ path, diffId }) => ({ path, diffId, mediaType: mediaTypes.ociLayerGzip }));
    const { manifest } = await pushImage(registry.host, { repository, tag: "latest", layers });
    const image = `${registry.host}/${repository}`;
    const cacheDirectory = await bench.freshDirectory("cache");
    bench.say("its indexes");
    const create = ["index", "create", `${image}:latest`, "--insecure", "--cachedir", cacheDirectory];
    await bench.run(process.execPath, [ocifsProgram, ...create]);

    const mount = async (reference: string): Promise<number> => {
      const request = await bench.imageRequest(reference, cacheDirectory);
      let elapsedMs = 0;
      const begin = process.hrtime.bigint();
      await using _mount = await bench.mountAs(request, async () => {
        const { stdout } = await bench.run("ls", [request.directory]);
        elapsedMs = Number(process.hrtime.bigint() - begin) / 1e6;
        const names = stdout.split("\n");
        if (!names.includes("etc") || !names.includes("data"))
          throw new Error(`${reference}: not both layers are there`);
      });
      return elapsedMs;
    };
    const series = async (name: string, reference: string): Promise<Figure> => {
      const pairs = new Pairs();
      for (let i = 0; i < bench.repeats; i++) {
        bench.say(`${name}, ${i + 1} of ${bench.repeats}`);
        const bare = await bench.measure(process.execPath, ["-e", "0"]);
        pairs.add(await mount(reference), bare.ns / 1e6);
      }
      return pairs.toFigure(
        "size",
        {
          workload: "remount",
          name,
          unit: "ms",
          command: "time sh -c 'mount.ocifs IMAGE MNT && ls MNT', the second time",
          referenceName: "node -e 0",
        },
        { text: "< 250 ms", isMet: ({ median }) => median < 250 },
      );
    };

    await mount(`${image}:latest`);
    const figures = [
      await series("second mount, by tag", `${image}:latest`),
      await series("second mount, by digest", `${image}@${manifest.digest}`),
    ];
    await registry.stop();
    figures.push(await series("second mount, registry down", `${image}:latest`));
    return figures;
  } finally {
    await registry.stop();
  }
}
