import { open } from "node:fs/promises";
import { join } from "node:path";
import type { Bench } from "../bench.js";
import { type Figure, Pairs } from "../figures.js";
import { pullAndUnpack, pullWords } from "../pull.js";
import { type LinkName, linkWords } from "../shaped-link.js";
import { timed } from "../time.js";

/** Any file that every Debian has. */
const file = "etc/debian_version";

/** From the start of mount.ocifs to the first byte of a file, beside a pull to the same byte, and what Node alone takes to start. */
export async function mountTime(bench: Bench): Promise<Figure[]> {
  const image = await bench.program();
  const figures: Figure[] = [];
  for (const link of ["shaped", "loopback"] as const) {
    const host = await bench.hostOver(link);
    const cold = new Pairs();
    const warm = { pull: new Pairs(), bare: new Pairs() };
    for (let i = 0; i < bench.repeats; i++) {
      bench.say(`mount, ${linkWords[link]}, ${i + 1} of ${bench.repeats}`);
      const bare = await bench.measure(process.execPath, ["-e", "0"]);
      const cache = await image.coldCache();
      const ours: number[] = [];
      for (let times = 0; times < 2; times++) {
        await bench.dropCaches();
        ours.push(await firstByte(bench, link, cache));
      }
      const work = await bench.freshDirectory("pull");
      await bench.dropCaches();
      const pull = await timed(async () => {
        const root = await pullAndUnpack(bench, host, work);
        return await readFirstByte(join(root, file));
      });
      cold.add(ours[0] ?? Number.NaN, pull.ms);
      warm.pull.add(ours[1] ?? Number.NaN, pull.ms);
      warm.bare.add(ours[1] ?? Number.NaN, bare.ns / 1e6);
      await bench.discard(cache, work);
    }
    const command = `echo 3 >/proc/sys/vm/drop_caches; mount.ocifs IMAGE MNT; head -c 1 MNT/${file}; beside ${pullWords}`;
    const about = { workload: "mount to first byte", unit: "ms", command } as const;
    const name = (what: string) => `${linkWords[link]}, ${what}`;
    figures.push(
      cold.toFigure("time", { ...about, name: name("only the indexes are cached"), referenceName: "pull + unpack" }),
      warm.pull.toFigure("time", { ...about, name: name("cache kept"), referenceName: "pull + unpack" }),
      warm.bare.toFigure("time", { ...about, name: name("cache kept"), referenceName: "node -e 0" }),
    );
  }
  return figures;
}

async function firstByte(bench: Bench, link: LinkName, cache: string): Promise<number> {
  const request = await bench.programRequest(link, cache);
  let ms = Number.NaN;
  const begin = process.hrtime.bigint();
  await using mount = await bench.mountAs(request, async () => {
    await readFirstByte(join(request.directory, file));
    ms = Number(process.hrtime.bigint() - begin) / 1e6;
  });
  const { errors } = await mount.status();
  if (errors > 0) throw new Error(`mount: ocifs status counts ${errors} errors`);
  return ms;
}

async function readFirstByte(path: string): Promise<void> {
  await using handle = await open(path, "r");
  const { bytesRead, buffer } = await handle.read(Buffer.alloc(1), 0, 1, 0);
  // The version is "12.4" and the like.
  if (bytesRead !== 1 || buffer[0] !== 0x31) throw new Error(`${path}: does not begin with 1`);
}
