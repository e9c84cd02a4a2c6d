import { setTimeout as delay } from "node:timers/promises";
import { Random } from "../../bench/content.js";
import { summarize } from "../../bench/figures.js";
import { memoryOf, unmount } from "../../bench/mounts.js";
import { type Layer, makeLayer } from "../content.js";
import { TortureRegistry } from "../registry.js";
import { type ReaderResult, type Stage, sum } from "../stage.js";
import { Findings, type Outcome } from "../verdict.js";

const IMAGES = 4;
/** More than this between the second and the last quarter is growth. */
const GROWTH_BYTES = 12 << 20;

/**
 * Mounts come and go, are read, have their readers and daemons killed, all in one cache that is too small; the daemon of one
 * mount that stays may not grow.
 */
export async function churn(stage: Stage): Promise<Outcome> {
  const found = new Findings();
  const layers = new Map<string, Layer>(
    Array.from({ length: IMAGES }, (_, i) => [`image-${i}`, makeLayer({ seed: 71 + i, files: 6, fileBytes: 1 << 20 })]),
  );
  const registry = await TortureRegistry.start(layers);
  stage.defer(() => registry[Symbol.asyncDispose]());
  const [first] = layers.values();
  if (!first) throw new Error("no image");
  const words = ["cachesize=16M"];
  const staying = await stage.mount(registry.reference("image-0"), "mnt-staying", { words });
  const stayingReader = stage.startReader(staying, first.shape, stage.seconds, 1);
  const pid = (await stage.status(staying))?.pid;
  if (pid === undefined) throw new Error(`no daemon answers for ${staying}`);

  const samples: number[] = [];
  const results: ReaderResult[] = [];
  const counts = { mounts: 0, unmounts: 0, "readers killed": 0, "daemons killed": 0 };
  const random = new Random(0x2545f491);
  const end = Date.now() + stage.seconds * 1000;
  // On a machine that is busy a short form may end before there is a sample for each quarter.
  while (Date.now() < end || samples.length < 4) {
    const name = `image-${random.below(IMAGES)}`;
    const layer = layers.get(name) ?? first;
    const mountpoint = await stage.mount(registry.reference(name), `mnt-${counts.mounts++ % 3}`, { words });
    const reader = stage.startReader(mountpoint, layer.shape, 0.2 + random.below(8) / 10, counts.mounts);
    const fate = random.below(4);
    if (fate === 0) {
      await delay(random.below(300));
      reader.child.kill("SIGKILL");
      counts["readers killed"]++;
    } else {
      results.push(await reader.result);
    }
    const daemon = (await stage.status(mountpoint))?.pid;
    if (fate === 1 && daemon !== undefined && daemon !== pid) {
      process.kill(daemon, "SIGKILL");
      counts["daemons killed"]++;
      await unmount(mountpoint);
    } else {
      await stage.unmount(mountpoint);
      counts.unmounts++;
    }
    samples.push((await memoryOf(pid)).rssBytes);
  }
  results.push(await stayingReader.result);
  found.readers("", sum(results));
  for (const [name, count] of Object.entries(counts)) found.figure(name, count);

  const quarter = Math.ceil(samples.length / 4);
  const warm = summarize(samples.slice(quarter, 2 * quarter)).median;
  const last = summarize(samples.slice(-quarter)).median;
  found.figure("RSS after warm-up, MiB", Math.round(warm / 2 ** 20));
  found.figure("RSS at the end, MiB", Math.round(last / 2 ** 20));
  // A few seconds are no time to warm up in.
  if (!stage.short) {
    found.want(last <= warm + GROWTH_BYTES, `the daemon grew from ${warm} to ${last} bytes`);
  }
  await stage.unmount(staying);
  const left = await stage.leftovers();
  // A daemon that was killed leaves its socket and log for the next one of that name; others remove them when they look.
  const real = left.filter((each) => !/runtime directory|temporary file/.test(each));
  found.want(real.length === 0, `left over: ${real.slice(0, 5).join("; ")}`);
  return found.outcome();
}
