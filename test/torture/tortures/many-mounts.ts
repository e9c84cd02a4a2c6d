import { mapConcurrently } from "../../../src/base/concurrency.js";
import { memoryOf } from "../../bench/mounts.js";
import { type Layer, makeLayer } from "../content.js";
import { TortureRegistry } from "../registry.js";
import { type Stage, sum } from "../stage.js";
import { Findings, type Outcome } from "../verdict.js";

/** Mounts that are begun at the same time. */
const AT_ONCE = 8;

/** Many mounts of several images at once, read, then unmounted: nothing may be left. */
export async function manyMounts(stage: Stage): Promise<Outcome> {
  const found = new Findings();
  const [images, mounts] = stage.short ? [2, 4] : [10, 60];
  const layers = new Map<string, Layer>(
    Array.from({ length: images }, (_, i) => [`image-${i}`, makeLayer({ seed: 61 + i, files: 4, fileBytes: 1 << 19 })]),
  );
  const registry = await TortureRegistry.start(layers);
  stage.defer(() => registry[Symbol.asyncDispose]());

  const made = await mapConcurrently(
    Array.from({ length: mounts }, (_, i) => i),
    AT_ONCE,
    async (i) => {
      const name = `image-${i % images}`;
      const layer = layers.get(name);
      if (!layer) throw new Error(`no ${name}`);
      return { layer, mountpoint: await stage.mount(registry.reference(name), `mnt-${i}`) };
    },
  );
  const statuses = await stage.statuses();
  found.want(statuses.length === mounts, `ocifs status knows ${statuses.length} of ${mounts} mounts`);
  const readers = made.map(({ mountpoint, layer }, i) => stage.startReader(mountpoint, layer.shape, 1, i));
  found.readers("", sum(await Promise.all(readers.map(({ result }) => result))));

  const pids = await stage.processes();
  const memory = await Promise.all(pids.map((pid) => memoryOf(pid)));
  const rssBytes = memory.reduce((all, each) => all + each.rssBytes, 0);
  found.figure("mounts", mounts);
  found.figure("processes", pids.length);
  found.figure("RSS per mount, MiB", Math.round(rssBytes / mounts / 2 ** 20));

  await mapConcurrently(made, AT_ONCE, ({ mountpoint }) => stage.unmount(mountpoint));
  const left = await stage.leftovers();
  found.figure("left over", left.length);
  found.want(left.length === 0, `left over: ${left.slice(0, 5).join("; ")}`);
  return found.outcome();
}
