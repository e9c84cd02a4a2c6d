import type { IndexManifest } from "../../../src/index/manifest.js";
import type { Bench, RunResult } from "../bench.js";
import { atLeast, type Figure, Pairs } from "../figures.js";
import type { LayerName } from "../layers.js";
import { ocifsProgram } from "../mounts.js";

const MiB = 2 ** 20;
const peakRssMaxBytes = 150e6;

/** `ocifs index create` beside `gunzip | tar` over the same blob on local disk, and the memory it takes. */
export async function indexCreation(bench: Bench): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const name of ["debian", "entries-60k", "entries-250k", "large", "uniform"] as const) {
    const sources = name === "debian" || name === "large" ? (["file", "registry"] as const) : (["file"] as const);
    for (const source of sources) figures.push(...(await measureLayer(bench, name, source)));
  }
  return figures;
}

async function measureLayer(bench: Bench, name: LayerName, source: "file" | "registry"): Promise<Figure[]> {
  const { path, diffId } = await bench.layer(name);
  const image = source === "file" ? `file:${path}` : await bench.reference(name);
  const times = new Pairs();
  const cpu = new Pairs();
  const memory = new Pairs();
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`index of ${name} from a ${source}, ${i + 1} of ${bench.repeats}`);
    const reference = await bench.measurePipeline('gunzip -c "$1" | tar tf - | wc -l', path);
    const ours = await createIndex(bench, image, source);
    const { digest, entryCount } = ours.manifest.tar;
    if (digest !== diffId) throw new Error(`index of ${name}: diffID ${digest}, want ${diffId}`);
    if (entryCount !== Number(reference.stdout)) {
      throw new Error(`index of ${name}: ${entryCount} entries, tar counts ${reference.stdout.trim()}`);
    }
    times.add(ours.ns / 1e6, reference.ns / 1e6);
    cpu.add(ours.cpuNs / 1e6, reference.cpuNs / 1e6);
    const bare = await bench.measure(process.execPath, ["-e", "0"]);
    memory.add(ours.peakRssBytes / MiB, bare.peakRssBytes / MiB);
  }
  const words = source === "file" ? "file:LAYER.tar.gz" : "127.0.0.1:PORT/IMAGE --insecure";
  const command = `ocifs index create ${words} -o DIR`;
  const workload = "index creation";
  const what = `layer "${name}" from ${source === "file" ? "local disk" : "the registry"}`;
  return [
    times.toFigure(
      "time",
      { workload, name: what, unit: "ms", command, referenceName: "gunzip -c | tar tf -" },
      atLeast(1),
    ),
    cpu.toFigure("time", {
      workload,
      name: `${what}, processor time`,
      unit: "ms",
      command: `wait4(2) of ${command}`,
      referenceName: "gunzip -c | tar tf -",
    }),
    memory.toFigure(
      "size",
      {
        workload,
        name: `${what}, peak memory`,
        unit: "MiB",
        command: `wait4(2) of ${command}`,
        referenceName: "node -e 0",
      },
      { text: "< 150 MB", isMet: (ocifs) => ocifs.max * MiB < peakRssMaxBytes },
    ),
  ];
}

async function createIndex(
  bench: Bench,
  image: string,
  source: "file" | "registry",
): Promise<RunResult & { manifest: IndexManifest }> {
  const directory = await bench.freshDirectory("index");
  const options = ["-o", directory, "--json", ...(source === "registry" ? ["--insecure"] : [])];
  const { stdout, ...result } = await bench.measure(process.execPath, [
    ocifsProgram,
    "index",
    "create",
    image,
    ...options,
  ]);
  return { ...result, manifest: (JSON.parse(stdout) as { manifest: IndexManifest }).manifest };
}
