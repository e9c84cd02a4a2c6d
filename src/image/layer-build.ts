import { join } from "node:path";
import { Cleanup } from "../base/cleanup.js";
import { messageOf, OcifsError, throwIfAborted } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import { CompressedFile, isCacheWriteFailure } from "../cache/compressed-file.js";
import type { CacheRoom } from "../cache/room.js";
import { removeLeftovers } from "../cache/temporary-files.js";
import { type CreatedIndex, createLayerIndex } from "../index/create.js";
import { isPendingFile } from "../index/files.js";
import type { LoadedIndex } from "../index/load.js";
import { DataFill } from "../layer/data-fill.js";
import { InFlightSource } from "../layer/in-flight-source.js";
import { InFlightStream } from "../layer/in-flight-stream.js";
import type { FilledNow } from "../layer/layer-marks.js";
import type { Digest } from "../oci/digest.js";
import { openLayerTable } from "./indexed-layer.js";
import type { SourceLayer } from "./open-source.js";

export interface LayerBuildOptions {
  /** Stays the caller's. */
  readonly layer: SourceLayer;
  readonly expectedDiffId: Digest | undefined;
  readonly cache: CacheDirectory;
  /** For the index where the cache cannot hold it; asked for once it is needed. */
  readonly privateDirectory: () => Promise<string>;
  readonly log: Log;
  /** How much of the blob has been used. Starts again from 0 when the layer has to be read once more. */
  readonly onProgress: (blobBytes: number) => void;
  readonly signal: AbortSignal;
}

export interface BuiltLayer {
  readonly index: LoadedIndex;
  readonly filled: FilledNow;
}

/** What is written on the way. Each plan needs less of the disk than the one before. */
const plans = [
  { blob: true, data: true, index: "cache" },
  { blob: true, data: false, index: "cache" },
  { blob: false, data: false, index: "cache" },
  { blob: false, data: false, index: "private" },
] as const;

type Plan = (typeof plans)[number];

/** The cache cannot take the blob at all. */
class NoRoom extends Error {}

/**
 * Makes a layer's index in one pass over its blob, which fills the layer's cache files as it comes: `compressed` through the
 * in-flight stream, so that nothing is fetched that is there already, and the uncompressed bytes. A cache that has no
 * room, or cannot be written, costs what would be kept, never the index.
 * Errors are those of `createLayerIndex`; the bytes of a blob or of a tar that is not the right one are not kept.
 */
export async function buildLayer(o: LayerBuildOptions): Promise<BuiltLayer> {
  const { digest } = o.layer.blob;
  let left: readonly Plan[] = plans.filter((plan) => o.cache.unusable === undefined || plan.index === "private");
  for (let plan = left[0]; plan; plan = left[0]) {
    throwIfAborted(o.signal, "mount");
    try {
      return await new LayerBuildPass(o, plan).run();
    } catch (error) {
      const noRoom = error instanceof NoRoom;
      left = left.slice(1).filter(({ blob }) => !(blob && noRoom));
      if (left.length === 0 || !(noRoom || isCacheWriteFailure(error))) throw error;
      o.log.warn("the cache cannot keep all of a layer while its index is built", { digest, reason: messageOf(error) });
    }
  }
  throw new OcifsError("internal", `layer ${digest}: no way was found to build its index`);
}

class LayerBuildPass {
  readonly #o: LayerBuildOptions;
  readonly #plan: Plan;
  readonly #blob: SourceLayer["blob"];

  constructor(o: LayerBuildOptions, plan: Plan) {
    this.#o = o;
    this.#plan = plan;
    this.#blob = o.layer.blob;
  }

  async run(): Promise<BuiltLayer> {
    await using cleanup = new Cleanup();
    if (!this.#plan.blob) {
      return { index: loadedIndex(await this.#create(this.#blob, false)), filled: { blob: false, tar: false } };
    }
    const { cache } = this.#o;
    const use = cleanup.add(await cache.useBlob(this.#blob.digest));
    const room = use.room(cache.room);
    const file = cleanup.add(await this.#openCompressed(use.path, room));
    const fill = this.#plan.data ? cleanup.add(await this.#beginFill(use.path, room)) : undefined;
    const index = loadedIndex(await this.#createFromStream(file, room, fill));
    const table = fill && (await openLayerTable({ layer: this.#o.layer, index }, cleanup));
    const tar = table !== undefined && (await fill?.keep(table)) !== undefined;
    return { index, filled: { blob: true, tar } };
  }

  async #openCompressed(directory: string, room: CacheRoom): Promise<CompressedFile> {
    const { sizeBytes } = this.#blob;
    let file: CompressedFile;
    try {
      file = await CompressedFile.open(join(directory, "compressed"), sizeBytes);
    } catch (error) {
      // Whatever is wrong with the cache's file, the layer can do without.
      throw new NoRoom(messageOf(error), { cause: error });
    }
    const missingBytes = sizeBytes - file.presentBytes();
    if (missingBytes > 0 && !(await room.makeRoom(missingBytes))) {
      await file[Symbol.asyncDispose]();
      throw new NoRoom(`its limit leaves no room for ${missingBytes} bytes`);
    }
    return file;
  }

  #beginFill(directory: string, room: CacheRoom): Promise<DataFill> {
    const { log } = this.#o;
    const { digest } = this.#blob;
    const onDropped = (reason: string) =>
      log.warn("the uncompressed bytes of a layer are not kept while its index is built", { digest, reason });
    return DataFill.begin({ directory, room, onDropped });
  }

  async #createFromStream(file: CompressedFile, room: CacheRoom, fill: DataFill | undefined): Promise<CreatedIndex> {
    const hadNothing = file.presentBytes() === 0;
    await using stream = InFlightStream.open({ source: this.#blob, file, room });
    await using source = new InFlightSource(stream);
    try {
      return await this.#create(source, true, fill);
    } catch (error) {
      if (isCacheWriteFailure(error) && !fill && hadNothing) {
        // The disk is full of this very blob. The index matters more, and what comes next needs the room.
        file.discard({ begin: 0, end: file.sizeBytes });
      }
      throw error;
    }
  }

  async #create(source: SourceLayer["blob"], sourceIsVerified: boolean, fill?: DataFill): Promise<CreatedIndex> {
    const { layer, expectedDiffId, cache, privateDirectory, onProgress, signal } = this.#o;
    const shared = this.#plan.index === "cache";
    const directory = shared ? cache.indexPath(this.#blob.digest) : await privateDirectory();
    if (shared) await removeLeftovers(directory, isPendingFile);
    return await createLayerIndex({
      source,
      sourceIsVerified,
      output: { directory, shared },
      ...(shared ? { room: cache.room } : {}),
      ...(expectedDiffId === undefined ? {} : { expectedDiffId }),
      ...(layer.mediaType === undefined ? {} : { mediaType: layer.mediaType }),
      ...(fill === undefined ? {} : { tarSink: (bytes, offset) => fill.write(bytes, offset) }),
      onProgress: ({ blobBytes }) => onProgress(blobBytes),
      signal,
    });
  }
}

/** What was just made and hashed need not be read again to be loaded. */
function loadedIndex({ manifest, tarindexPath, zinfoPath }: CreatedIndex): LoadedIndex {
  return {
    tarindexPath,
    tarindexSizeBytes: manifest.tarindex.sizeBytes,
    ...(zinfoPath === undefined ? {} : { zinfoPath }),
    ...(manifest.zinfo === undefined ? {} : { zinfoSizeBytes: manifest.zinfo.sizeBytes }),
    manifest,
    verified: true,
  };
}
