import { createHash } from "node:crypto";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { constants, gzipSync } from "node:zlib";
import type { Log } from "../../src/base/log.js";
import type { BlobSource } from "../../src/blob/blob-source.js";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import type { CacheRoom } from "../../src/cache/room.js";
import { SpanIndex } from "../../src/gzip/span-index.js";
import { openZinfo } from "../../src/gzip/zinfo.js";
import { type CreatedIndex, createLayerIndex } from "../../src/index/create.js";
import { GzipSpanTable } from "../../src/layer/gzip-span-table.js";
import { OpenLayer } from "../../src/layer/open-layer.js";
import type { Digest } from "../../src/oci/digest.js";
import { memoryBlob } from "./blob-sources.js";
import { buildTar } from "./tar-builder.js";
import { tempDirectory } from "./temp.js";

/** A gzip layer with its index made by us, in a directory of its own. */
export interface LayerFixture {
  readonly directory: string;
  readonly files: ReadonlyMap<string, Buffer>;
  readonly tar: Buffer;
  readonly gz: Buffer;
  readonly index: CreatedIndex & { readonly zinfoPath: string };
}

export interface LayerFixtureOptions {
  /** Name and size of each file. */
  readonly files?: Readonly<Record<string, number>>;
  readonly spanSizeBytes?: number;
  /** Other content for another seed. */
  readonly seed?: number;
  /** Incompressible content; otherwise it shrinks to about two thirds. */
  readonly random?: boolean;
  /** Zeros behind the archive's end. */
  readonly paddingBytes?: number;
}

/** The same bytes for the same arguments. `random` uses all values, otherwise they are hex digits and some repetition. */
export function contentOf(name: string, sizeBytes: number, random: boolean): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0, size = 0; size < sizeBytes; i++) {
    const digest = createHash("sha512").update(`${name} ${i}`).digest();
    const part = random ? digest : Buffer.from(`${digest.toString("hex").slice(0, 50)} line ${i} of ${name}\n`);
    parts.push(part);
    size += part.length;
  }
  return Buffer.concat(parts).subarray(0, sizeBytes);
}

export async function makeLayerFixture(t: TestContext, options: LayerFixtureOptions = {}): Promise<LayerFixture> {
  const { random = false, seed = 0 } = options;
  const sizes = Object.entries(options.files ?? { small: 1000, big: 400_000, last: 70_000 });
  const files = new Map(sizes.map(([name, size]) => [name, contentOf(`${seed} ${name}`, size, random)]));
  const archive = buildTar([...files].map(([path, data]) => ({ path, data })));
  const tar = Buffer.concat([archive, Buffer.alloc(options.paddingBytes ?? 0)]);
  // A low memLevel makes many deflate blocks, so checkpoints come close to where they are wanted.
  const gz = gzipSync(tar, random ? { level: 1 } : { memLevel: 4, strategy: constants.Z_DEFAULT_STRATEGY });
  const directory = await tempDirectory(t);
  const paths = (extension: string) => join(directory, `layer.${extension}`);
  const created = await createLayerIndex({
    source: memoryBlob(gz),
    output: { tarindexPath: paths("tarindex"), zinfoPath: paths("zinfo"), jsonPath: paths("json") },
    spanSizeBytes: options.spanSizeBytes ?? 64 << 10,
  });
  return { directory, files, tar, gz, index: { ...created, zinfoPath: paths("zinfo") } };
}

export interface OpenFixtureOptions {
  readonly cacheDir: string;
  readonly source: BlobSource;
  /** As another tool's index: no span digests, and only the archive's size is known. */
  readonly foreign?: boolean;
  readonly zinfoPath?: string;
  readonly checkWindows?: boolean;
  readonly checkBlob?: boolean;
  /** Of the cache. */
  readonly limitBytes?: number;
  /** Default: what the index recorded. */
  readonly tarDigest?: Digest;
  readonly fetchDiffId?: (signal: AbortSignal) => Promise<Digest | undefined>;
  readonly room?: CacheRoom;
  readonly diskLookMs?: number;
  /** Gets each line that is logged. */
  readonly say?: (line: string) => void;
}

/** The fixture's layer over any source, as a mount opens it. The caller closes it; its zinfo is closed with it. */
export async function openFixtureLayer(fixture: LayerFixture, options: OpenFixtureOptions): Promise<OpenLayer> {
  const { manifest } = fixture.index;
  const zinfo = await openZinfo(options.zinfoPath ?? fixture.index.zinfoPath, {
    blobSizeBytes: options.source.sizeBytes,
  });
  const index = new SpanIndex(zinfo, {
    blobSizeBytes: options.source.sizeBytes,
    uncompressedSizeBytes: options.foreign ? manifest.tar.endOffset : manifest.tar.sizeBytes,
    streamEnds: !options.foreign,
  });
  const table = new GzipSpanTable({
    index,
    zinfo,
    zinfoDigest: options.zinfoPath ?? manifest.zinfo?.digest ?? "",
    spanDigests: options.foreign ? undefined : manifest.spans.digests,
  });
  const say = (level: string) => (message: string, fields?: Record<string, unknown>) =>
    options.say?.(`${level}: ${message}${fields?.reason === undefined ? "" : `: ${fields.reason}`}`);
  const log: Log = { debug: say("debug"), info: say("info"), warn: say("warn"), error: say("error") };
  const limit = options.limitBytes === undefined ? {} : { limitBytes: options.limitBytes };
  const cache = await CacheDirectory.open(options.cacheDir, limit);
  if (options.room) Object.defineProperty(cache, "room", { value: options.room });
  const layer = await OpenLayer.open({
    source: options.source,
    table,
    cache,
    ...(options.foreign ? {} : { tarDigest: options.tarDigest ?? manifest.tar.digest }),
    ...(options.fetchDiffId === undefined ? {} : { fetchDiffId: options.fetchDiffId }),
    ...(options.diskLookMs === undefined ? {} : { diskLookMs: options.diskLookMs }),
    checkWindows: options.checkWindows ?? true,
    checkBlob: options.checkBlob ?? true,
    log,
  });
  const close = layer[Symbol.asyncDispose].bind(layer);
  layer[Symbol.asyncDispose] = async () => {
    await close();
    await zinfo[Symbol.asyncDispose]();
    await cache[Symbol.asyncDispose]();
  };
  return layer;
}
