import { join } from "node:path";
import { type CachedBlob, listBlobs, removeBlob } from "./cached-blobs.js";
import { CompressedFile } from "./compressed-file.js";
import type { CacheHolder } from "./room.js";
import { clearVerified } from "./verified-marks.js";

/** Who has fetched into a blob within this time is at work on it: what it fetched ahead is left to it. */
const ACTIVE_MS = 60_000;

/** Given back at a time: a part that somebody reads keeps no more than this from being given up. */
export const EVICTION_PIECE_BYTES = 1 << 20;

/** How many of a layer's oldest spans are looked at in one go. */
const SPANS_AT_ONCE = 256;

/**
 * Removes blobs that no process uses, least recently used first, of each `compressed` before the rest, until about `bytes` are
 * free. Resolves to the bytes given back.
 */
export async function giveUpUnused(cachePath: string, bytes: number): Promise<number> {
  let freed = 0;
  for (const blob of await listBlobs(cachePath)) {
    if (blob.pinned) continue;
    for (const what of ["compressed", "all"] as const) {
      if (freed >= bytes) return freed;
      freed += (await removeBlob(blob.path, what)) ?? 0;
    }
  }
  return freed;
}

/**
 * Gives up `compressed` of blobs that others use and have not fetched into for a while. Their decoders hold locks on what they
 * read, so no byte vanishes under them; who misses it later fetches it again. `data` of others stays: only who knows its spans can
 * choose among them.
 */
export async function giveUpForeignCompressed(cachePath: string, bytes: number): Promise<number> {
  let freed = 0;
  for (const blob of await listBlobs(cachePath)) {
    if (freed >= bytes) break;
    if (!blob.pinned && Date.now() - blob.lastUsedMs > ACTIVE_MS) freed += await punchCompressed(blob, bytes - freed);
  }
  return freed;
}

async function punchCompressed(blob: CachedBlob, bytes: number): Promise<number> {
  const size = blob.files.find(({ name }) => name === "compressed");
  if (!size || size.allocatedBytes === 0) return 0;
  await clearVerified(blob.path, "compressed");
  const file = await CompressedFile.openExisting(join(blob.path, "compressed"));
  if (!file) return 0;
  await using _ = file;
  let freed = 0;
  for (const range of file.present({ begin: 0, end: file.sizeBytes })) {
    for (let begin = range.begin; begin < range.end && freed < bytes; begin += EVICTION_PIECE_BYTES) {
      freed += file.tryGiveUp({ begin, end: Math.min(range.end, begin + EVICTION_PIECE_BYTES) });
    }
  }
  return freed;
}

/** Gives up the least recently used spans of all layers that this process has open. Resolves to the bytes given back. */
export async function giveUpOwn(holders: readonly CacheHolder[], bytes: number): Promise<number> {
  let freed = 0;
  // A second look only where the first found more than it could tell at once.
  for (let more = true; more && freed < bytes; ) {
    const oldest = holders
      .flatMap((holder) => holder.oldestSpans(SPANS_AT_ONCE).map((use) => ({ holder, ...use })))
      .sort((a, b) => a.used - b.used);
    more = oldest.length >= SPANS_AT_ONCE;
    const chosen = new Map<CacheHolder, number[]>();
    let wanted = bytes - freed;
    for (const { holder, span, sizeBytes } of oldest) {
      if (wanted <= 0) break;
      wanted -= sizeBytes;
      chosen.set(holder, [...(chosen.get(holder) ?? []), span]);
    }
    let round = 0;
    for (const [holder, spans] of chosen) round += await holder.giveUpSpans(spans);
    freed += round;
    more &&= round > 0;
  }
  return freed;
}
