import { createHash } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { ensureDirectory } from "../base/ensure-directory.js";
import { isOcifsError, OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { version } from "../base/version.js";
import type { BlobSource } from "../blob/blob-source.js";
import { type CacheRoom, unlimitedRoom } from "../cache/room.js";
import { WriteBudget } from "../cache/write-budget.js";
import { layOut, writePlanned } from "../erofs/tarindex-writer.js";
import { openGzipRecorder, openZstdStream } from "../native/inflate.js";
import { openLayerHash } from "../native/sha256.js";
import type { PlannedTarindex } from "../native/tarindex.js";
import { algorithmOf, type Digest } from "../oci/digest.js";
import { type DigestStream, openDigestStream } from "../oci/digest-stream.js";
import { blockBytes } from "../tar/header.js";
import { type TarEnd, TarWalker } from "../tar/walker.js";
import { BlobInput } from "./blob-input.js";
import { decodeBlob, type LayerRecorder } from "./decode.js";
import { EqualSpans } from "./equal-spans.js";
import { digestOfFile, fromSystemError, type IndexPaths, indexPathsIn, PendingFiles } from "./files.js";
import { type IndexedFile, type IndexManifest, indexFormatVersion, serializeIndexManifest } from "./manifest.js";
import { type FinishedTarTree, TarTree, type WhiteoutMode } from "./tar-tree.js";

export interface IndexProgress {
  /** Of the blob, read so far. */
  readonly blobBytes: number;
  readonly tarBytes: number;
  readonly entryCount: number;
}

/**
 * Given each piece of the uncompressed layer, in order and without gaps; `offset` is the piece's in the layer. The bytes are the
 * sink's until its promise settles, and change after that. A rejection ends the pass.
 */
export type TarSink = (bytes: Uint8Array, offset: number) => Promise<void>;

export interface CreateLayerIndexOptions {
  /** Stays the caller's to dispose. */
  readonly source: BlobSource;
  /** The source ends without an error only when the digest of all it gave is right; it is then not hashed again. */
  readonly sourceIsVerified?: boolean;
  /**
   * Names the files after the blob inside a directory, which is made if missing; or gives each its path. In a `shared`
   * directory, such as the cache, what is being made can be told from what a killed process left.
   */
  readonly output: { readonly directory: string; readonly shared?: boolean } | IndexPaths;
  /** From the image config; checked against the uncompressed bytes. */
  readonly expectedDiffId?: Digest;
  /** Recorded only; what the blob is shows in its first bytes. */
  readonly mediaType?: string;
  /** Distance of checkpoints, and of span digests. */
  readonly spanSizeBytes?: number;
  readonly whiteouts?: WhiteoutMode;
  /** Takes the uncompressed layer on its way. Whether it is the right one is known only when the index is made. */
  readonly tarSink?: TarSink;
  /** Asked before the files of the index grow; `no-space` when it has none. */
  readonly room?: CacheRoom;
  readonly onProgress?: (progress: IndexProgress) => void;
  readonly signal?: AbortSignal;
}

export interface CreatedIndex {
  readonly manifest: IndexManifest;
  readonly tarindexPath: string;
  /** Absent for a plain tar. */
  readonly zinfoPath?: string;
  readonly jsonPath: string;
  /** Bytes behind the end of the tar archive: padding, or anything else. No file points there. */
  readonly tarTrailingBytes: number;
  /** Bytes of the blob behind its gzip stream; nobody reads them. */
  readonly blobTrailingBytes: number;
}

export const defaultSpanSizeBytes = 1 << 20;

/**
 * Reads a layer's blob once, front to back, and writes its tarindex, zinfo (gzip) and JSON. Memory does not depend on the layer's size,
 * only on its number of entries. The files appear together at the end, or not at all. Throws `mismatch` when the blob
 * or its uncompressed bytes are not the expected ones, `corrupt`, `unsupported` or `limit` for a layer that cannot be indexed, `io` or
 * `no-space` for the files, `aborted`, and what the source throws.
 */
export async function createLayerIndex(options: CreateLayerIndexOptions): Promise<CreatedIndex> {
  const operation = `index create ${options.source.description}`;
  throwIfAborted(options.signal, operation);
  try {
    return await create(options);
  } catch (error) {
    // Whatever a cancelled fetch throws, the reason is the cancellation.
    if (!isOcifsError(error)) throwIfAborted(options.signal, operation);
    throw fromSystemError(error, operation);
  }
}

async function create(options: CreateLayerIndexOptions): Promise<CreatedIndex> {
  const { source, output, signal } = options;
  const claimed = "directory" in output && output.shared === true;
  if ("directory" in output) await ensureDirectory(output.directory, claimed ? 0o700 : 0o777);
  const paths = "directory" in output ? indexPathsIn(output.directory, source.digest) : output;
  await using files = new PendingFiles({ claimed });
  await using input = new BlobInput(source, signal, options.sourceIsVerified);
  using budget = new WriteBudget(options.room ?? unlimitedRoom);
  const spend = async (bytes: number) => {
    if (await budget.spend(bytes, 0)) return;
    throw new OcifsError("no-space", `index create ${source.description}: the cache's limit leaves no room for it`);
  };
  const pass = new LayerPass(options, spend);
  let read: LayerContent;
  try {
    read = await pass.run(input, () => files.create(paths.zinfoPath));
  } catch (error) {
    // A gzip member whose checksum does not fit its data is a `mismatch` there, and damage all the same here.
    if (!isOcifsError(error, "corrupt") && !isOcifsError(error, "mismatch")) throw error;
    throw await explainCorruption(input, error);
  }
  const { encoding, zinfo, blobTrailingBytes, end, diffId, spanDigests } = read;
  const digest = input.verify();
  if (options.expectedDiffId !== undefined && diffId !== options.expectedDiffId) {
    throw new OcifsError(
      "mismatch",
      `index create ${source.description}: the uncompressed layer's digest is ${diffId}, the image config wants ${options.expectedDiffId}`,
    );
  }
  const tarindexFile = await files.create(paths.tarindexPath);
  const finished = pass.finishTree();
  const { tarindex, impliedDirectories } = await writeTarindexFile(tarindexFile, {
    finished,
    end,
    diffId,
    spend,
    signal,
  });
  const manifest: IndexManifest = {
    version: indexFormatVersion,
    generator: `ocifs ${version}`,
    blob: {
      digest,
      sizeBytes: source.sizeBytes,
      encoding,
      ...(options.mediaType === undefined ? {} : { mediaType: options.mediaType }),
    },
    tar: {
      digest: diffId,
      sizeBytes: end.sizeBytes,
      entryCount: end.entryCount,
      endOffset: end.endOffset,
      endMarkerFound: end.endMarkerFound,
    },
    whiteouts: pass.whiteouts,
    tarindex,
    impliedDirectories,
    danglingLinks: finished.danglingLinks,
    ...(zinfo === undefined ? {} : { zinfo: await digestOfFile(zinfo, signal) }),
    spans: { sizeBytes: pass.spanSizeBytes, digests: spanDigests },
  };
  const json = await files.create(paths.jsonPath);
  const text = serializeIndexManifest(manifest);
  await spend(Buffer.byteLength(text));
  await json.writeFile(text);
  await files.commit();
  return {
    manifest,
    tarindexPath: paths.tarindexPath,
    ...(zinfo === undefined ? {} : { zinfoPath: paths.zinfoPath }),
    jsonPath: paths.jsonPath,
    tarTrailingBytes: end.trailingBytes,
    blobTrailingBytes,
  };
}

/** A layer that does not parse may be the wrong bytes altogether: then that is the error, with what it looked like as its cause. */
async function explainCorruption(input: BlobInput, error: OcifsError): Promise<OcifsError> {
  await input.drain();
  try {
    input.verify();
  } catch (mismatch) {
    if (isOcifsError(mismatch)) return new OcifsError(mismatch.code, mismatch.message, { cause: error });
    throw mismatch;
  }
  return error.code === "corrupt" ? error : new OcifsError("corrupt", error.message, { cause: error });
}

interface LayerContent {
  readonly encoding: "gzip" | "tar" | "zstd";
  readonly zinfo?: FileHandle;
  readonly blobTrailingBytes: number;
  readonly end: TarEnd;
  readonly diffId: Digest;
  readonly spanDigests: readonly string[];
}

/** One pass over the blob: inflate, hash, walk. */
class LayerPass {
  readonly spanSizeBytes: number;
  readonly whiteouts: WhiteoutMode;
  readonly #options: CreateLayerIndexOptions;
  readonly #tree: TarTree;
  readonly #walker: TarWalker;
  readonly #hash = openLayerHash();
  /** Of a layer whose diffID is of another algorithm. */
  readonly #otherHash: DigestStream | undefined;
  readonly #spend: (bytes: number) => Promise<void>;
  #tarBytes = 0;
  #entryCount = 0;

  /** `spend` is told of bytes that are about to be written to the index's files. */
  constructor(options: CreateLayerIndexOptions, spend: (bytes: number) => Promise<void>) {
    this.#options = options;
    this.#spend = spend;
    const { expectedDiffId } = options;
    const algorithm = expectedDiffId === undefined ? "sha256" : algorithmOf(expectedDiffId);
    if (algorithm !== "sha256") this.#otherHash = openDigestStream(algorithm);
    this.spanSizeBytes = options.spanSizeBytes ?? defaultSpanSizeBytes;
    this.whiteouts = options.whiteouts ?? "keep";
    if (!Number.isSafeInteger(this.spanSizeBytes) || this.spanSizeBytes < 64 << 10 || this.spanSizeBytes > 2 ** 30) {
      throw new OcifsError("usage", `index create: span size ${this.spanSizeBytes}, want 64 KiB to 1 GiB in bytes`);
    }
    this.#tree = new TarTree({ whiteouts: this.whiteouts });
    this.#walker = new TarWalker({
      entry: (entry) => {
        this.#entryCount++;
        this.#tree.add(entry);
      },
      plainEntries: (entries) => {
        this.#entryCount += entries.count;
        this.#tree.addPlain(entries);
      },
    });
  }

  finishTree(): FinishedTarTree {
    return this.#tree.finish();
  }

  async run(input: BlobInput, openZinfo: () => Promise<FileHandle>): Promise<LayerContent> {
    const first = (await input.next()) ?? new Uint8Array(0);
    const encoding = encodingOf(first);
    if (encoding === "tar") return await this.#runTar(first, input);
    if (encoding === "zstd") return await this.#runZstd(first, input);
    const zinfo = await openZinfo();
    const recorder = openGzipRecorder({ zinfoFd: zinfo.fd, spanSizeBytes: this.spanSizeBytes });
    return { encoding, zinfo, ...(await this.#runCompressed(first, input, recorder)) };
  }

  async #runCompressed(
    first: Uint8Array,
    input: BlobInput,
    recorder: LayerRecorder,
  ): Promise<Omit<LayerContent, "encoding" | "zinfo">> {
    try {
      await decodeBlob(first, input, recorder, (bytes, spanStarts) => this.#onTar(bytes, spanStarts, input));
      const result = recorder.finish();
      const content = this.#finishTar();
      if (result.uncompressedSizeBytes !== this.#tarBytes || content.spanDigests.length !== result.checkpointCount) {
        throw new OcifsError(
          "internal",
          `index create: the layer's recorder counted ${result.uncompressedSizeBytes} bytes and ${result.checkpointCount} spans, ` +
            `want ${this.#tarBytes} and ${content.spanDigests.length}`,
        );
      }
      return { blobTrailingBytes: result.trailingBytes, ...content };
    } finally {
      recorder.close();
    }
  }

  async #runZstd(first: Uint8Array, input: BlobInput): Promise<LayerContent> {
    const spans = new EqualSpans(this.spanSizeBytes);
    const decoder = openZstdStream();
    try {
      await decodeBlob(first, input, decoder, (bytes) => this.#onTarOfEqualSpans(bytes, spans, input));
      decoder.finish();
    } finally {
      decoder.close();
    }
    return { encoding: "zstd", blobTrailingBytes: 0, ...this.#finishTar() };
  }

  async #runTar(first: Uint8Array, input: BlobInput): Promise<LayerContent> {
    const spans = new EqualSpans(this.spanSizeBytes);
    for (let piece: Uint8Array | undefined = first; piece !== undefined; piece = await input.next()) {
      const accounted = Promise.allSettled([input.account(piece)]);
      try {
        await this.#onTarOfEqualSpans(piece, spans, input);
      } finally {
        // The piece is the pool thread's until then.
        await accounted;
      }
      const [account] = await accounted;
      if (account.status === "rejected") throw account.reason;
    }
    return { encoding: "tar", blobTrailingBytes: 0, ...this.#finishTar() };
  }

  #onTarOfEqualSpans(bytes: Uint8Array, spans: EqualSpans, input: BlobInput): Promise<void> {
    return this.#onTar(bytes, spans.startsBefore(this.#tarBytes + bytes.length), input);
  }

  async #onTar(bytes: Uint8Array, spanStarts: Float64Array, input: BlobInput): Promise<void> {
    // A checkpoint has a window of 32 KiB.
    await this.#spend(Math.ceil((bytes.length / this.spanSizeBytes) * (33 << 10)));
    const taken = Promise.allSettled([
      bytes.length > 0 ? this.#options.tarSink?.(bytes, this.#tarBytes) : undefined,
      this.#hash.update(bytes, spanStarts),
      this.#otherHash?.update(bytes),
    ]);
    try {
      this.#walker.push(bytes);
    } finally {
      // The bytes are the sink's and the hash's until they say so.
      await taken;
    }
    for (const each of await taken) if (each.status === "rejected") throw each.reason;
    this.#tarBytes += bytes.length;
    this.#options.onProgress?.({
      blobBytes: input.accountedBytes,
      tarBytes: this.#tarBytes,
      entryCount: this.#entryCount,
    });
  }

  #finishTar(): Pick<LayerContent, "end" | "diffId" | "spanDigests"> {
    const end = this.#walker.finish();
    const { digest, spanDigests } = this.#hash.finish();
    const hex = Buffer.from(spanDigests).toString("hex");
    return {
      end,
      diffId: this.#otherHash?.finish() ?? `sha256:${Buffer.from(digest).toString("hex")}`,
      spanDigests: Array.from({ length: hex.length / 64 }, (_, i) => hex.slice(i * 64, i * 64 + 64)),
    };
  }
}

/** RFC 8878: a frame, and the 16 magic numbers of a skippable frame (zstd:chunked layers may begin with one). */
const zstdMagic = 0xfd2fb528;
const zstdSkippable = 0x184d2a50;
const zstdSkippableMask = 0xfffffff0;

/** By the first bytes: media types are often wrong, magic numbers are not. */
function encodingOf(start: Uint8Array): LayerContent["encoding"] {
  if (start[0] === 0x1f && start[1] === 0x8b) return "gzip";
  const magic = start.length < 4 ? 0 : Buffer.from(start.buffer, start.byteOffset, 4).readUInt32LE();
  return magic === zstdMagic || (magic & zstdSkippableMask) >>> 0 === zstdSkippable ? "zstd" : "tar";
}

interface TarindexOptions {
  readonly finished: FinishedTarTree;
  readonly end: TarEnd;
  readonly diffId: Digest;
  readonly spend: (bytes: number) => Promise<void>;
  readonly signal: AbortSignal | undefined;
}

async function writeTarindexFile(
  file: FileHandle,
  { finished: { tree, impliedDirectories }, end, diffId, spend, signal }: TarindexOptions,
): Promise<{ tarindex: IndexedFile; impliedDirectories: readonly number[] }> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  const device = { tag: "", blocks: Math.ceil(end.endOffset / blockBytes) };
  const plan = layOut(tree, 1);
  for (const piece of writePlanned(tree, plan, { devices: [device], uuid: uuidOf(diffId) })) {
    throwIfAborted(signal, "index create");
    hash.update(piece);
    await spend(piece.length);
    for (let at = 0; at < piece.length; ) {
      const { bytesWritten } = await file.write(piece, at, piece.length - at, sizeBytes);
      at += bytesWritten;
      sizeBytes += bytesWritten;
    }
  }
  return {
    tarindex: { digest: `sha256:${hash.digest("hex")}`, sizeBytes },
    impliedDirectories: nidsOf(impliedDirectories, plan),
  };
}

/** Ascending, without those that lost their name. */
function nidsOf(inodes: ReadonlySet<number>, { nids }: PlannedTarindex): readonly number[] {
  const found = [...inodes].flatMap((inode) => nids[inode] || []).sort((a, b) => a - b);
  if (found.length > limits.impliedDirectories) {
    throw new OcifsError(
      "limit",
      `index create: ${found.length} directories have no entry in the tar, the limit is ${limits.impliedDirectories}`,
    );
  }
  return found;
}

/** The start of the diffID as a UUID of version 8 (RFC 9562, free use): the same layer has the same one however it is compressed. */
function uuidOf(diffId: Digest): Uint8Array {
  const uuid = Buffer.from(diffId.slice(diffId.indexOf(":") + 1), "hex").subarray(0, 16);
  uuid[6] = ((uuid[6] ?? 0) & 0x0f) | 0x80;
  uuid[8] = ((uuid[8] ?? 0) & 0x3f) | 0x80;
  return uuid;
}
