import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { messageOf, OcifsError, throwIfAborted } from "../base/errors.js";
import type { CompressedFile } from "../cache/compressed-file.js";
import { readAt } from "../cache/raw-file.js";
import { openZstdStream } from "../native/inflate.js";
import { algorithmOf, type Digest, hasherOf } from "../oci/digest.js";
import type { RangeFetcher } from "./range-fetcher.js";
import type { SpanTable } from "./span-table.js";

/** What is hashed at a time on the main thread: well under 1 ms of it. */
const HASH_CHUNK_BYTES = 256 << 10;

/** The digest, of the algorithm of `like`, of a blob that is whole; undefined when some of it was discarded meanwhile. */
export async function digestOfBlob(
  fetcher: RangeFetcher,
  like: Digest,
  signal: AbortSignal,
): Promise<Digest | undefined> {
  const hash = hasherOf(like);
  const buffer = Buffer.alloc(HASH_CHUNK_BYTES);
  const { sizeBytes } = fetcher.source;
  for (let at = 0; at < sizeBytes; ) {
    throwIfAborted(signal, "check of a blob's digest");
    // A hole would read as zeros: what is leased is there, and stays.
    const lease = fetcher.leaseIfThere({ begin: at, end: Math.min(sizeBytes, at + buffer.length) });
    if (!lease) return undefined;
    const bytes = await readAt(lease.fd, buffer, at).finally(() => lease.release());
    if (bytes === 0)
      throw new OcifsError("io", `cache file of ${like}: it ends at ${at}; another process shortened it`);
    hash.update(buffer.subarray(0, bytes));
    at += bytes;
  }
  return `${algorithmOf(like)}:${hash.digest("hex")}`;
}

async function* decodeZstd(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const decoder = openZstdStream();
  try {
    for await (const chunk of chunks) {
      for (let at = 0, full = true; at < chunk.length || full; ) {
        const output = Buffer.allocUnsafe(HASH_CHUNK_BYTES);
        const { consumed, produced } = await decoder.step(chunk.subarray(at), output);
        at += consumed;
        full = produced === output.length;
        yield output.subarray(0, produced);
      }
    }
    decoder.finish();
  } finally {
    decoder.close();
  }
}

export interface TarDigests {
  /** sha256 of the first bytes of the tar. */
  readonly prefix: Digest;
  /** Of all of it, padding behind the archive included: the diffID. */
  readonly whole: Digest;
}

/**
 * Inflates a whole blob from its beginning and hashes what comes out: all of it, and its first `prefixBytes`. Needs no
 * index, so it can tell whether one is right. `corrupt` when the blob is no gzip stream or ends before `prefixBytes`.
 */
export async function digestsOfTar(
  file: CompressedFile,
  encoding: SpanTable["encoding"],
  prefixBytes: number,
  like: Digest | undefined,
  signal: AbortSignal,
): Promise<TarDigests> {
  const algorithm = like === undefined ? "sha256" : algorithmOf(like);
  const whole = createHash(algorithm);
  const first = createHash("sha256");
  let prefixLeft = prefixBytes;
  const take = async (chunks: AsyncIterable<Buffer>) => {
    for await (const chunk of chunks) {
      whole.update(chunk);
      if (prefixLeft > 0) first.update(chunk.subarray(0, prefixLeft));
      prefixLeft -= Math.min(prefixLeft, chunk.length);
    }
  };
  // The path and not the descriptor: a stream that is cut short would close the latter.
  const blob = createReadStream(`/proc/self/fd/${file.fd}`, {
    highWaterMark: HASH_CHUNK_BYTES,
    end: Math.max(0, file.sizeBytes - 1),
  });
  try {
    if (encoding === "tar") await pipeline(blob, take, { signal });
    else if (encoding === "zstd") await pipeline(blob, decodeZstd, take, { signal });
    else await pipeline(blob, createGunzip({ chunkSize: HASH_CHUNK_BYTES }), take, { signal });
  } catch (cause) {
    throwIfAborted(signal, "check of a tar's digest");
    throw new OcifsError("corrupt", `blob: it does not inflate to its end: ${messageOf(cause)}`, { cause });
  }
  if (prefixLeft > 0)
    throw new OcifsError("corrupt", `blob: it inflates to ${prefixLeft} bytes less than its index says`);
  return {
    prefix: `sha256:${first.digest("hex")}`,
    whole: `${algorithm}:${whole.digest("hex")}`,
  };
}
