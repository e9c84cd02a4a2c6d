import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { Digest } from "../../src/oci/digest.js";
import { endMarker, padding, type TarItem, tarHeader } from "../support/tar-builder.js";
import { Content, Random } from "./content.js";

/** Eight layers of 48 MB, a third to gzip: an image of the usual size and shape. */
export const appLayers = ["app-0", "app-1", "app-2", "app-3", "app-4", "app-5", "app-6", "app-7"] as const;

export type LayerName =
  | "debian"
  | "files"
  | "entries-60k"
  | "entries-250k"
  | "large"
  | "uniform"
  | "medium"
  | (typeof appLayers)[number];

export interface LayerFile {
  readonly path: string;
  readonly digest: Digest;
  readonly diffId: Digest;
  readonly sizeBytes: number;
}

/** A file of a generated layer: its content comes from `seed`, or is one line over and over. */
interface Item extends Omit<TarItem, "data"> {
  readonly path: string;
  readonly sizeBytes?: number;
  readonly seed?: number;
}

const MB = 1_000_000;
const MiB = 1 << 20;

/** Files that workloads read by name, all in the layer "files", "large" or "medium". */
export const wellKnown = {
  fiveMb: { path: "data/five-mb.bin", sizeBytes: 5 * MB },
  sixMb: { path: "data/six-mb.bin", sizeBytes: 6 * MB },
  late: { path: "late.bin", sizeBytes: 128 * MiB },
  random: { path: "data/random.bin", sizeBytes: 64 * MiB },
  sequential: { path: "data/sequential.bin", sizeBytes: 256 * MiB },
} as const;

/** Grows when a generator changes; kept layers of another version are made again. */
const version = 3;

const generators: Readonly<Record<Exclude<LayerName, "debian">, () => Generator<Item>>> = {
  "app-0": () => app(0),
  "app-1": () => app(1),
  "app-2": () => app(2),
  "app-3": () => app(3),
  "app-4": () => app(4),
  "app-5": () => app(5),
  "app-6": () => app(6),
  "app-7": () => app(7),
  *files() {
    yield { path: "data/", type: "directory" };
    yield* smallFiles("before", 400, 100);
    yield { ...wellKnown.fiveMb, seed: 5 };
    yield* smallFiles("between", 400, 500);
    yield { ...wellKnown.sixMb, seed: 6 };
    yield* smallFiles("after", 400, 900);
  },
  *"entries-60k"() {
    yield* entries(60_000);
  },
  *"entries-250k"() {
    yield* entries(250_000);
  },
  *large() {
    yield { path: "data/", type: "directory" };
    yield { ...wellKnown.random, seed: 7 };
    yield { ...wellKnown.sequential, seed: 8 };
    yield { path: "rest/", type: "directory" };
    for (let i = 0; i < 200; i++) yield { path: `rest/${i}.bin`, sizeBytes: 4 * MiB, seed: 1000 + i };
  },
  *medium() {
    yield { path: "early/", type: "directory" };
    for (let i = 0; i < 60; i++) yield { path: `early/${i}.bin`, sizeBytes: 4 * MiB, seed: 3000 + i };
    yield { ...wellKnown.late, seed: 9 };
  },
  *uniform() {
    for (let i = 0; i < 11; i++) yield { path: `same-${i}.txt`, sizeBytes: 100 * MiB };
  },
};

function* app(number: number): Generator<Item> {
  yield { path: "opt/", type: "directory" };
  yield* smallFiles(`opt/app-${number}`, 300, 10_000 * (number + 1));
  for (let i = 0; i < 7; i++) {
    yield { path: `opt/app-${number}/library-${i}.so`, sizeBytes: 4 * MiB, seed: 9000 + 10 * number + i };
  }
}

function* smallFiles(directory: string, count: number, seed: number): Generator<Item> {
  const random = new Random(seed);
  yield { path: `${directory}/`, type: "directory" };
  for (let i = 0; i < count; i++) {
    yield { path: `${directory}/file-${i}.bin`, sizeBytes: 1 + random.below(128 << 10), seed: seed + i };
  }
}

/** Exactly `count` entries, like those of a language's packages: small files with long names in many directories. */
function* entries(count: number): Generator<Item> {
  const random = new Random(count);
  for (let made = 0, directory = 0; made < count; directory++) {
    const parent = `usr/lib/group-${directory % 40}/package-${directory}`;
    yield { path: `${parent}/`, type: "directory" };
    made++;
    for (let i = 0; i < 99 && made < count; i++, made++) {
      if (i % 25 === 24) yield { path: `${parent}/link-${i}`, type: "symlink", linkPath: `module-${i - 1}.js` };
      else yield { path: `${parent}/module-${i}.js`, sizeBytes: random.below(3000), seed: made };
    }
  }
}

/** Makes the layer in `directory`, or finds it there from an earlier run. */
export async function provideLayer(directory: string, name: LayerName, signal: AbortSignal): Promise<LayerFile> {
  if (name === "debian") return await sampleLayer(directory);
  const path = join(directory, "bench", `${name}.tar.gz`);
  const kept = await readKept(path);
  if (kept !== undefined) return kept;
  await mkdir(join(directory, "bench"), { recursive: true });
  const part = `${path}.${process.pid}.part`;
  try {
    const made = await makeLayer(part, generators[name](), signal);
    await rename(part, path);
    await writeFile(`${path}.json`, JSON.stringify({ version, ...made }));
    return { path, ...made };
  } finally {
    await rm(part, { force: true });
  }
}

/** scripts/bench has made it with scripts/sample-image. */
async function sampleLayer(directory: string): Promise<LayerFile> {
  const path = join(directory, "quickstart", "debian-bookworm.tar.gz");
  const diffId = (await readFile(`${path}.diffid`, "utf8")).trim() as Digest;
  return { path, diffId, ...(await digestOf(path)) };
}

async function readKept(path: string): Promise<LayerFile | undefined> {
  let text: string;
  try {
    text = await readFile(`${path}.json`, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const kept = JSON.parse(text) as LayerFile & { version: number };
  const { digest, diffId, sizeBytes } = kept;
  // A damaged file of the right size shows when it is pushed or indexed: both check digests.
  if (kept.version !== version || (await stat(path)).size !== sizeBytes) return undefined;
  return { path, digest, diffId, sizeBytes };
}

async function digestOf(path: string): Promise<{ digest: Digest; sizeBytes: number }> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: MiB }), hash);
  return { digest: `sha256:${hash.digest("hex")}`, sizeBytes: (await stat(path)).size };
}

async function makeLayer(path: string, items: Iterable<Item>, signal: AbortSignal): Promise<Omit<LayerFile, "path">> {
  const gzip = spawn("gzip", ["-n", "-6"], { stdio: ["pipe", "pipe", "inherit"], signal });
  const exited = once(gzip, "exit");
  const tarHash = createHash("sha256");
  const content = new Content();
  await Promise.all([
    pipeline(tarOf(items, content, tarHash), gzip.stdin, { signal }),
    pipeline(gzip.stdout, createWriteStream(path), { signal }),
  ]);
  const [code] = await exited;
  if (code !== 0) throw new Error(`gzip: exit code ${code}`);
  return { diffId: `sha256:${tarHash.digest("hex")}`, ...(await digestOf(path)) };
}

async function* tarOf(items: Iterable<Item>, content: Content, hash: { update(bytes: Uint8Array): unknown }) {
  const mtime = 1_700_000_000;
  for (const item of items) {
    const sizeBytes = item.sizeBytes ?? 0;
    yield hashed(tarHeader({ ...item, mtime, headerSize: sizeBytes }));
    if (item.seed === undefined) for (const piece of oneLine(sizeBytes)) yield hashed(piece);
    else for (const piece of content.bytes(item.seed, sizeBytes)) yield hashed(piece);
    yield hashed(padding(sizeBytes));
  }
  yield hashed(endMarker);

  function hashed(bytes: Buffer): Buffer {
    hash.update(bytes);
    return bytes;
  }
}

function* oneLine(sizeBytes: number): Generator<Buffer> {
  const piece = Buffer.alloc(Math.min(sizeBytes, MiB), "nothing new here, and nothing to see\n");
  for (let left = sizeBytes; left > 0; left -= piece.length) yield piece.subarray(0, Math.min(left, piece.length));
}
