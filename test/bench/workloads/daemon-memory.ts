import type { Bench } from "../bench.js";
import { type Figure, summarize } from "../figures.js";

const MiB = 2 ** 20;
const rssMaxBytes = 200e6;

/** Memory of the daemon after every byte of a layer has been read through its mount, and compared with the layer. */
export async function daemonMemory(bench: Bench): Promise<Figure[]> {
  const figures: Figure[] = [];
  const afterMount: number[] = [];
  for (const name of ["debian", "large", "uniform", "entries-60k"] as const) {
    const { path } = await bench.layer(name);
    const rss: number[] = [];
    const peak: number[] = [];
    const idle: number[] = [];
    let tarBytes = 0;
    // Each takes a while and hardly varies.
    for (let i = 0; i < Math.min(bench.repeats, 3); i++) {
      bench.say(`daemon memory, ${name}, ${i + 1} of ${Math.min(bench.repeats, 3)}`);
      await using mount = await bench.mount(name);
      idle.push((await mount.memory()).rssBytes / MiB);
      // tar reads every file through the mount and compares it; any difference is an error.
      await bench.pipeline('gunzip -c "$1" | tar --compare -f - -C "$2"', path, mount.directory);
      const memory = await mount.memory();
      const [layer] = (await mount.status()).layers;
      tarBytes = layer?.sizeBytes ?? 0;
      rss.push(memory.rssBytes / MiB);
      peak.push(memory.peakRssBytes / MiB);
    }
    afterMount.push(...idle);
    const size = `layer "${name}", ${(tarBytes / 1e6).toFixed(0)} MB`;
    const command = "gunzip -c LAYER.tar.gz | tar --compare -f - -C MNT; grep -E 'VmRSS|VmHWM' /proc/DAEMON/status";
    const about = { workload: "daemon memory", unit: "MiB", command } as const;
    const reference = { name: "right after mounting", summary: summarize(idle) };
    for (const [what, values] of [
      ["after reading all", rss],
      ["peak", peak],
    ] as const) {
      const ocifs = summarize(values);
      figures.push({
        ...about,
        name: `${size}, ${what}`,
        ocifs,
        reference,
        ratio: summarize(values.map((value, i) => (idle[i] ?? Number.NaN) / value)),
        want: { text: "< 200 MB", met: ocifs.max * MiB < rssMaxBytes },
      });
    }
  }
  return figures;
}
