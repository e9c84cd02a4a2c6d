import { dirname } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import { pathExists } from "../base/path-exists.js";
import { readBounded } from "../base/read-bounded.js";
import { writeFileAtomically } from "../cache/atomic-file.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import type { LoadedIndex } from "../index/load.js";
import { parseProfile, profilePathOf, serializeProfile } from "../index/profile.js";
import { AccessRecorder, type SpanAccess } from "../layer/access-recorder.js";
import type { OpenLayer } from "../layer/open-layer.js";
import { monotonicClock } from "../layer/pace.js";
import { ProfileReplay } from "../layer/profile-replay.js";
import type { Clock } from "../registry/clock.js";

/** How long accesses are written down, from the first on: programs have started by then. */
const WINDOW_MS = 10_000;

export interface ProfiledLayer {
  readonly index: LoadedIndex;
  readonly data: OpenLayer;
}

export interface AccessProfilesOptions {
  readonly cache: CacheDirectory;
  readonly log: Log;
  /** Write down what is read. Off where more is fetched than is read: nobody then learns of reads that find it. */
  readonly record: boolean;
  readonly clock?: Clock;
}

/**
 * The access profiles of an image's layers: what the last mount with an empty cache read is fetched before this one asks for it, and if
 * this one begins with nothing of a layer, its own reads are kept for the next. A profile that cannot be read or kept
 * costs time, nothing else.
 */
export class AccessProfiles implements AsyncDisposable {
  readonly #layers: readonly ProfiledLayer[];
  readonly #o: AccessProfilesOptions;
  readonly #clock: Clock;
  readonly #replay: ProfileReplay;
  readonly #recorder: AccessRecorder;
  /** Layers of which nothing was decoded when the mount began. */
  readonly #cold: readonly boolean[];
  readonly #closing = new AbortController();
  #recording: Promise<void> | undefined;

  private constructor(layers: readonly ProfiledLayer[], accesses: readonly SpanAccess[][], o: AccessProfilesOptions) {
    this.#layers = layers;
    this.#o = o;
    this.#clock = o.clock ?? monotonicClock;
    this.#cold = layers.map(({ data }) => data.store.stats().presentSpans === 0);
    this.#recorder = new AccessRecorder(layers.length, WINDOW_MS, () => this.#clock.nowMs());
    this.#replay = new ProfileReplay(
      layers.map(({ data }, at) => ({
        accesses: accesses[at] ?? [],
        sizeOf: ({ first, last }) => data.table.compressedRange(last).end - data.table.compressedRange(first).begin,
        fetchAhead: (range, giveUp) => data.spans.fetchAhead(range, giveUp),
      })),
    );
  }

  /** Reads the profiles, and begins to fetch what they have. `layers` in the order of the device slots; stay the caller's. */
  static async start(layers: readonly ProfiledLayer[], o: AccessProfilesOptions): Promise<AccessProfiles> {
    const accesses = await Promise.all(layers.map((layer) => readAccesses(layer, o.log)));
    const profiles = new AccessProfiles(layers, accesses, o);
    profiles.#replay.run().then(
      () => o.log.debug("the access profiles were replayed", { ...profiles.#replay.account }),
      (error: unknown) => o.log.warn("the access profiles cannot be replayed", { reason: messageOf(error) }),
    );
    return profiles;
  }

  /** A read misses spans of a layer, whose device slot counts from 1; dispose of it when they are there. */
  demand(device: number, first: number, last: number): Disposable {
    if (this.#o.record) {
      this.#recorder.note(device - 1, { first, last });
      this.#recording ??= this.#keepLater();
    }
    return this.#replay.demand(device - 1, { first, last });
  }

  /** Ends the replay, and keeps what was written down. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#replay[Symbol.asyncDispose]();
    await this.#recording;
  }

  /** Never rejects. */
  async #keepLater(): Promise<void> {
    const { signal } = this.#closing;
    try {
      await this.#clock.sleep(WINDOW_MS, signal);
    } catch (error) {
      if (!signal.aborted)
        this.#o.log.error("the time to keep access profiles was not waited for", { reason: messageOf(error) });
    }
    for (const [at, layer] of this.#layers.entries()) {
      if (!this.#cold[at]) continue;
      try {
        await this.#keep(layer, this.#recorder.accessesOf(at));
      } catch (error) {
        const { digest } = layer.data.source;
        this.#o.log.warn("an access profile cannot be kept", { digest, reason: messageOf(error) });
      }
    }
  }

  async #keep({ index, data }: ProfiledLayer, accesses: readonly SpanAccess[]): Promise<void> {
    const { cache } = this.#o;
    const { digest: blob } = data.source;
    // What somebody named is his; of an index that goes with the mount nothing is kept.
    const ours = cache.unusable === undefined && dirname(index.tarindexPath) === cache.indexPath(blob);
    if (!ours || accesses.length === 0 || !isDivisible(data)) return;
    const { outStarts } = data.table;
    const reads = accesses.map(({ atMs, span }) => {
      const offset = outStarts[span] ?? 0;
      return { atMs, offset, length: (outStarts[span + 1] ?? 0) - offset };
    });
    const text = serializeProfile({ blob, tarBytes: data.device.sizeBytes, reads });
    using room = await cache.room.reserve(text.length);
    if (!room) throw new OcifsError("no-space", "the cache is full");
    await writeFileAtomically(profilePathOf(index.tarindexPath), text);
  }
}

/** What the profile beside the layer's index has that is not decoded already. */
async function readAccesses({ index, data }: ProfiledLayer, log: Log): Promise<SpanAccess[]> {
  const path = profilePathOf(index.tarindexPath);
  try {
    if (data.complete || !isDivisible(data) || !(await pathExists(path))) return [];
    const bytes = await readBounded(path, limits.profileBytes, `access profile ${path}`);
    const want = { blob: data.source.digest, tarBytes: data.device.sizeBytes };
    const { reads } = parseProfile(bytes, want, path);
    const accesses = new Map<number, SpanAccess>();
    for (const { atMs, offset, length } of reads) {
      const first = data.store.spanAt(offset);
      // Another index may divide the layer into many more spans.
      const last = Math.min(data.store.spanAt(offset + length - 1), first + limits.profileReads - accesses.size - 1);
      if (last < first) break;
      for (const span of data.store.absent(first, last)) {
        if (!accesses.has(span)) accesses.set(span, { atMs, span });
      }
    }
    return [...accesses.values()];
  } catch (error) {
    log.warn("an access profile counts as absent", { reason: messageOf(error) });
    return [];
  }
}

/** Of a blob that is decoded from its start nothing can be fetched ahead that would be of use. */
function isDivisible({ table }: OpenLayer): boolean {
  return table.encoding !== "zstd";
}
