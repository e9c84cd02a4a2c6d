import { mapConcurrently } from "../../../src/base/concurrency.js";
import { memoryOf } from "../../bench/mounts.js";
import { type Layer, makeLayer } from "../content.js";
import { TortureRegistry } from "../registry.js";
import { type Stage, sum } from "../stage.js";
import { Findings, type Outcome } from "../verdict.js";

/** Mounts that are begun at the same time. */
const AT_ONCE = 4;
const RSS_LIMIT_BYTES = 150 << 20;

/** Many different images in one daemon, each read from: its memory, with their indexes built by it and with them in the cache. */
export async function manyImages(stage: Stage): Promise<Outcome> {
  const found = new Findings();
  const images = stage.short ? 6 : 100;
  const layers = new Map<string, Layer>(
    Array.from({ length: images }, (_, i) => [
      `image-${i}`,
      makeLayer({ seed: 300 + i, files: 64, fileBytes: 64 << 10 }),
    ]),
  );
  const registry = await TortureRegistry.start(layers);
  stage.defer(() => registry[Symbol.asyncDispose]());
  for (const round of ["built", "cached"] as const) {
    const daemon = await stage.startDaemon();
    const made = await mapConcurrently([...layers], AT_ONCE, async ([name, layer]) => ({
      layer,
      mountpoint: await stage.mount(registry.reference(name), `mnt-${name}`, { words: ["daemon=shared"] }),
    }));
    const readers = await mapConcurrently(made, AT_ONCE, ({ mountpoint, layer }) => {
      return stage.startReader(mountpoint, layer.shape, 1, layer.shape.seed).result;
    });
    found.readers("", sum(readers));
    const statuses = await stage.statuses();
    const ours = statuses.filter(({ pid }) => pid === daemon.pid);
    found.want(ours.length === images, `${round}: the daemon serves ${ours.length} of ${images} mounts`);
    const { rssBytes, peakRssBytes } = await memoryOf(daemon.pid);
    found.figure(`RSS with ${images} images, indexes ${round}, MiB`, Math.round(rssBytes / 2 ** 20));
    found.figure(`its peak, indexes ${round}, MiB`, Math.round(peakRssBytes / 2 ** 20));
    found.want(rssBytes < RSS_LIMIT_BYTES, `${round}: RSS of ${rssBytes} bytes, want less than ${RSS_LIMIT_BYTES}`);
    stage.forget(made.map(({ mountpoint }) => mountpoint));
    await daemon.stop();
  }
  const left = await stage.leftovers();
  found.want(left.length === 0, `left over: ${left.slice(0, 5).join("; ")}`);
  return found.outcome();
}
