import { setTimeout as delay } from "node:timers/promises";
import type { Bench } from "../bench.js";
import { atLeast, atMost, type Figure, Pairs } from "../figures.js";
import type { OcifsMount } from "../mounts.js";
import { program, programWords, shell } from "../program-image.js";
import { pullAndUnpack, pullWords } from "../pull.js";
import { type LinkName, linkWords } from "../shaped-link.js";
import { timed } from "../time.js";

/** How long a transfer must have brought nothing before it counts as over. */
const SETTLED_MS = 500;

interface Measured {
  /** From the start of mount.ocifs, or of the pull. */
  readonly coldMs: number;
  readonly againMs: number;
  readonly droppedMs: number;
}

/** A real program from an image of two layers: nothing cached, again at once, and with our cache but not the kernel's. */
export async function programStart(bench: Bench): Promise<Figure[]> {
  return [...(await startOver(bench, "shaped")), ...(await startOver(bench, "loopback"))];
}

/** The smallest start there is: a shell that runs one program, over the slow link, beside a full pull. */
export async function shellStart(bench: Bench): Promise<Figure[]> {
  const cold = new Pairs();
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`shell start, ${linkWords.shaped}, ${i + 1} of ${bench.repeats}`);
    const cache = await (await bench.program()).coldCache();
    const { coldMs } = await startOurs(bench, "shaped", shell, cache);
    await bench.discard(cache);
    cold.add(coldMs, (await startPulled(bench, "shaped", shell)).coldMs);
  }
  return [
    cold.toFigure("time", {
      workload: "shell start",
      name: `${linkWords.shaped}, cold, mount included`,
      unit: "ms",
      command: `mount.ocifs IMAGE MNT; chroot MNT ${shell.join(" ")}; beside ${pullWords}; chroot BUNDLE/rootfs …`,
      referenceName: "pull + unpack + start",
    }),
  ];
}

async function startOver(bench: Bench, link: LinkName): Promise<Figure[]> {
  const cold = new Pairs();
  const replayed = new Pairs();
  const again = new Pairs();
  const dropped = new Pairs();
  const bytes = new Pairs();
  const replayedBytes = new Pairs();
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`program start, ${linkWords[link]}, ${i + 1} of ${bench.repeats}`);
    const recorded = await (await bench.program()).coldCache();
    const { fetched, touched, ...ours } = await startOurs(bench, link, program, recorded);
    const profiled = await (await bench.program()).coldCache(recorded);
    await bench.discard(recorded);
    const second = await startOurs(bench, link, program, profiled);
    await bench.discard(profiled);
    const theirs = await startPulled(bench, link);
    cold.add(ours.coldMs, theirs.coldMs);
    replayed.add(second.coldMs, theirs.coldMs);
    replayedBytes.add(second.fetched, second.touched);
    again.add(ours.againMs, theirs.againMs);
    dropped.add(ours.droppedMs, theirs.droppedMs);
    bytes.add(fetched, touched);
  }
  const about = (name: string) => ({ workload: "program start", name: `${linkWords[link]}, ${name}` });
  const command = `mount.ocifs IMAGE MNT; ${programWords}; beside ${pullWords}; chroot BUNDLE/rootfs …`;
  const profileCommand = `the same with the access profile that another mount with an empty cache has left beside the index`;
  const spansTouched = {
    unit: "bytes",
    command: "ocifs status --json; state bytes of CACHE/blobs/*/*/spans-*",
    referenceName: "spans touched, compressed",
    note: "A span is touched when the kernel, readahead included, has asked for a byte of it: only then it is decoded",
  } as const;
  const shaped = link === "shaped";
  const disk = "files on disk";
  const figures = [
    cold.toFigure(
      "time",
      { ...about("cold, no profile, mount included"), unit: "ms", command, referenceName: "pull + unpack + start" },
      shaped ? atLeast(5) : undefined,
    ),
    bytes.toFigure(
      "size",
      { ...about("cold, no profile, bytes fetched"), ...spansTouched },
      shaped ? atMost(1.3) : undefined,
    ),
    replayed.toFigure(
      "time",
      {
        ...about("cold, with a profile, mount included"),
        unit: "ms",
        command: profileCommand,
        referenceName: "pull + unpack + start",
      },
      shaped ? atLeast(5) : undefined,
    ),
    replayedBytes.toFigure(
      "size",
      { ...about("cold, with a profile, bytes fetched"), ...spansTouched },
      shaped ? atMost(1.3) : undefined,
    ),
  ];
  // The link has no part in what follows.
  if (!shaped) {
    figures.push(
      again.toFigure("time", { ...about("again at once"), unit: "ms", command: programWords, referenceName: disk }),
      dropped.toFigure("time", {
        ...about("cache kept, after drop_caches"),
        unit: "ms",
        command: `echo 3 >/proc/sys/vm/drop_caches; ${programWords}`,
        referenceName: disk,
      }),
    );
  }
  return figures;
}

async function startOurs(
  bench: Bench,
  link: LinkName,
  words: readonly string[],
  cache: string,
): Promise<Measured & { fetched: number; touched: number }> {
  const request = await bench.programRequest(link, cache);
  await bench.dropCaches();
  let coldMs = Number.NaN;
  let fetched = Number.NaN;
  const begin = process.hrtime.bigint();
  const measured = { againMs: Number.NaN, droppedMs: Number.NaN };
  {
    await using mount = await bench.mountAs(request, async () => {
      await start(bench, request.directory, words);
      coldMs = Number(process.hrtime.bigint() - begin) / 1e6;
    });
    fetched = await settledBytes(bench, mount);
    measured.againMs = await start(bench, mount.directory, words);
    await bench.dropCaches(mount.directory);
    measured.droppedMs = await start(bench, mount.directory, words);
    const { errors } = await mount.status();
    if (errors > 0) throw new Error(`program start: ocifs status counts ${errors} errors`);
  }
  const touched = await (await bench.program()).touchedBytes(cache);
  return { coldMs, ...measured, fetched, touched };
}

async function startPulled(bench: Bench, link: LinkName, words: readonly string[] = program): Promise<Measured> {
  const host = await bench.hostOver(link);
  const work = await bench.freshDirectory("pull");
  await bench.dropCaches();
  const cold = await timed(async () => {
    const root = await pullAndUnpack(bench, host, work);
    await start(bench, root, words);
    return root;
  });
  const againMs = await start(bench, cold.result, words);
  await bench.dropCaches();
  const droppedMs = await start(bench, cold.result, words);
  await bench.discard(work);
  return { coldMs: cold.ms, againMs, droppedMs };
}

/** An import that fails, of a module with a wrong byte for one, ends the program with an error. */
async function start(bench: Bench, root: string, words: readonly string[]): Promise<number> {
  return (await timed(() => bench.run("chroot", [root, ...words]))).ms;
}

/** What the daemon has received once nothing more arrives. */
async function settledBytes(bench: Bench, mount: OcifsMount): Promise<number> {
  for (let last = -1; ; ) {
    const { bytesFetched } = await mount.status();
    if (bytesFetched === last) return last;
    last = bytesFetched;
    await delay(SETTLED_MS, undefined, { signal: bench.signal });
  }
}
