import { join } from "node:path";
import { Cleanup } from "../base/cleanup.js";
import { messageOf, OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { BlobSource } from "../blob/blob-source.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import { CompressedFile, isCacheWriteFailure } from "../cache/compressed-file.js";
import { flushFile } from "../cache/raw-file.js";
import { clearVerified, markVerified, verifiedDigest } from "../cache/verified-marks.js";
import { InFlightStream } from "../layer/in-flight-stream.js";
import { InFlightStreams, type OpenedStream } from "../layer/in-flight-streams.js";
import { type Digest, hasherOf } from "../oci/digest.js";

/** What a client is sent, and holds, at a time: 20 ms of a link of 50 Mbit/s. */
const CHUNK_BYTES = 128 << 10;

/** After a failure to write the cache blobs are passed on without it for so long. */
const WITHOUT_DISK_MS = 60_000;

export interface BlobRequest {
  /** Registry and repository. */
  readonly scope: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** Where it comes from if it is not here. */
  readonly open: () => BlobSource;
  readonly begin: number;
  readonly end: number;
  /** A part of a blob whose reader checks the whole; see InFlightStream.follow. */
  readonly part: boolean;
  readonly signal: AbortSignal;
}

/** Blobs out of the cache, or into it on the way: one download for all who ask for one, each at its own pace. */
export class ProxyBlobs implements AsyncDisposable {
  readonly #cache: CacheDirectory;
  readonly #log: Log;
  readonly #streams = new InFlightStreams();
  #withoutDiskUntil = 0;

  constructor(cache: CacheDirectory, log: Log) {
    this.#cache = cache;
    this.#log = log;
  }

  /** The bytes asked for. Of a request that reaches the blob's end the last ones come only once the digest was found right. */
  async *read(request: BlobRequest): AsyncGenerator<Uint8Array, void> {
    if (this.#cache.unusable !== undefined || performance.now() < this.#withoutDiskUntil) {
      return yield* passOn(request);
    }
    const { scope, digest, begin: from, end: to, part, signal } = request;
    let begun = false;
    try {
      await using use = await this.#streams.use({ scope, digest }, () => this.#open(request));
      // The next client of an image comes soon after the first: a download that began is worth its end.
      if (!part && to === request.sizeBytes) use.finishWithoutUsers();
      for await (const chunk of use.stream.follow({ from, to, part, signal })) {
        begun = true;
        yield chunk;
      }
      return;
    } catch (error) {
      if (!isCacheWriteFailure(error)) throw error;
      this.#withoutDiskUntil = performance.now() + WITHOUT_DISK_MS;
      this.#log.warn("the cache cannot take a blob; blobs are passed on without it for a minute", {
        digest,
        reason: messageOf(error),
      });
      if (begun) throw error;
    }
    yield* passOn(request);
  }

  async #open({ digest, sizeBytes, open }: BlobRequest): Promise<OpenedStream> {
    await using undo = new Cleanup();
    const use = undo.add(await this.#cache.useBlob(digest));
    const room = use.room(this.#cache.room);
    const file = undo.add(await CompressedFile.open(join(use.path, "compressed"), sizeBytes));
    const missing = sizeBytes - file.presentBytes();
    if (missing > 0 && !(await room.makeRoom(missing))) {
      throw new OcifsError("no-space", `blob ${digest}: the cache's limit leaves no room for ${missing} bytes`);
    }
    const verified = missing === 0 && (await verifiedDigest(use.path, "compressed")) === digest;
    // A mark beside holes is of a file that was given up in part.
    if (!verified) await clearVerified(use.path, "compressed");
    const source = undo.add(open());
    const stream = undo.add(InFlightStream.open({ source, file, room, chunkBytes: CHUNK_BYTES, verified }));
    const opened = undo.release();
    return {
      stream,
      [Symbol.asyncDispose]: async () => {
        await using _ = opened;
        if (!verified && stream.complete) await this.#mark(use.path, digest, file);
      },
    };
  }

  /** So that the next reader need not hash it. */
  async #mark(directory: string, digest: Digest, file: CompressedFile): Promise<void> {
    try {
      await flushFile(join(directory, "compressed"));
      await markVerified(directory, "compressed", digest);
      // Some may have been given up before there was a mark to take away.
      if (!file.has({ begin: 0, end: file.sizeBytes })) await clearVerified(directory, "compressed");
    } catch (error) {
      this.#log.warn("a complete blob cannot be marked so", { digest, reason: messageOf(error) });
    }
  }

  /** Ends all downloads; what they brought stays in the cache. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#streams[Symbol.asyncDispose]();
  }
}

/** Straight from the registry, for this client alone. */
async function* passOn(request: BlobRequest): AsyncGenerator<Uint8Array, void> {
  const { digest, sizeBytes, begin, end, signal } = request;
  await using source = request.open();
  const whole = begin === 0 && end === sizeBytes;
  const hash = hasherOf(digest);
  let held: Uint8Array | undefined;
  if (sizeBytes > 0) {
    for await (const chunk of source.fetchRange(begin, end - begin, { signal })) {
      if (whole) hash.update(chunk);
      if (held !== undefined) yield held;
      held = chunk;
    }
  }
  const got = whole ? `${digest.split(":", 1)[0]}:${hash.digest("hex")}` : digest;
  if (got !== digest) {
    throw new OcifsError("mismatch", `${source.description}: all of it was fetched and its digest is ${got}`);
  }
  if (held !== undefined) yield held;
}
