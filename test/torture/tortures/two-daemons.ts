import { makeLayer } from "../content.js";
import { TortureRegistry } from "../registry.js";
import { type Stage, sum } from "../stage.js";
import { Findings, type Outcome } from "../verdict.js";

/** Two daemons, one cache directory, the same image, cold: at random with an index, and as a first mount without. */
export async function twoDaemons(stage: Stage): Promise<Outcome> {
  const found = new Findings();
  const layer = makeLayer({ seed: 51, files: 8, fileBytes: stage.short ? 2 << 20 : 8 << 20 });
  const index = await stage.index(layer);
  for (const [name, words] of [
    ["with an index", index],
    ["first mounts", []],
  ] as const) {
    const registry = await TortureRegistry.start(new Map([["shared", layer]]));
    stage.defer(() => registry[Symbol.asyncDispose]());
    const cacheDirectory = `${stage.cacheDirectory}-${words.length}`;
    const mountpoints = await Promise.all(
      ["a", "b"].map((each) =>
        stage.mount(registry.reference("shared"), `mnt-${each}-${words.length}`, { cacheDirectory, words }),
      ),
    );
    const seconds = Math.max(1, stage.seconds / 2);
    const readers = mountpoints.flatMap((mountpoint, daemon) =>
      [1, 2, 3, 4].map((order) => stage.startReader(mountpoint, layer.shape, seconds, 10 * daemon + order)),
    );
    found.readers(name, sum(await Promise.all(readers.map(({ result }) => result))));
    for (const mountpoint of mountpoints) await stage.unmount(mountpoint);

    const times = new Uint8Array(layer.gz.length);
    for (const { begin, end } of registry.sent) for (let at = begin; at < end; at++) times[at] = (times[at] ?? 0) + 1;
    const fetched = times.reduce((sum, count) => sum + (count > 0 ? 1 : 0), 0);
    const twice = times.reduce((sum, count) => sum + Math.max(0, count - 1), 0);
    found.figure(`${name}: bytes sent`, `${fetched} of ${layer.gz.length}`);
    found.figure(`${name}: bytes sent again`, twice);
    found.want(twice === 0, `${name}: ${twice} bytes were sent more than once`);
  }
  return found.outcome();
}
