import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Bench } from "../bench.js";
import { atLeast, type Figure, Pairs, summarize } from "../figures.js";
import { appLayers } from "../layers.js";

const MiB = 2 ** 20;
const peakRssMaxBytes = 250e6;

/**
 * Mounting an image of eight layers that has no index yet, from the start of mount.ocifs until a file is read, beside pulling it
 * from the same registry and unpacking it; and the daemon's memory while all eight stream.
 */
export async function firstMount(bench: Bench): Promise<Figure[]> {
  const reference = await bench.imageOf("app", appLayers);
  let sizeBytes = 0;
  for (const name of appLayers) sizeBytes += (await bench.layer(name)).sizeBytes;
  const times = new Pairs();
  const peaks: number[] = [];
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`first mount, ${i + 1} of ${bench.repeats}`);
    const unpacked = await bench.freshDirectory("unpacked");
    await bench.dropCaches();
    const theirs = await bench.measurePipeline(
      'skopeo copy -q --src-tls-verify=false "docker://$1" "oci:$2/layout:t" && umoci unpack --image "$2/layout:t" "$2/bundle"',
      reference,
      unpacked,
    );
    const want = await readFile(join(unpacked, "bundle", "rootfs", "opt", "app-7", "library-6.so"));
    await rm(unpacked, { recursive: true });
    const request = await bench.imageRequest(reference);
    await bench.dropCaches();
    const begin = process.hrtime.bigint();
    await using mount = await bench.mountAs(request, async () => {
      const got = await readFile(join(request.directory, "opt", "app-7", "library-6.so"));
      times.add(Number(process.hrtime.bigint() - begin) / 1e6, theirs.ns / 1e6);
      if (!got.equals(want)) throw new Error("first mount: a file has other bytes than umoci's");
    });
    peaks.push((await mount.memory()).peakRssBytes / MiB);
    const { errors, bytesFetched } = await mount.status();
    if (errors > 0) throw new Error(`first mount: ocifs status counts ${errors} errors`);
    if (bytesFetched !== sizeBytes) throw new Error(`first mount: ${bytesFetched} bytes fetched, want ${sizeBytes}`);
  }
  const about = { workload: "first mount", command: "mount.ocifs IMAGE MNT -o oci.insecure,cachedir=EMPTY" } as const;
  const size = `8 layers, ${(sizeBytes / 1e6).toFixed(0)} MB of gzip`;
  const memory = summarize(peaks);
  return [
    times.toFigure(
      "time",
      { ...about, name: `no index, ${size}`, unit: "ms", referenceName: "skopeo copy && umoci unpack" },
      atLeast(1),
    ),
    {
      ...about,
      name: `peak memory of the daemon, ${size}`,
      unit: "MiB",
      ocifs: memory,
      want: { text: "< 250 MB", met: memory.max * MiB < peakRssMaxBytes },
    },
  ];
}
