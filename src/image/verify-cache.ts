import { createHash } from "node:crypto";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Cleanup } from "../base/cleanup.js";
import { isOcifsError, OcifsError, throwIfAborted } from "../base/errors.js";
import { BlobUse } from "../cache/blob-use.js";
import { bootId } from "../cache/cache-directory.js";
import type { CachedBlob } from "../cache/cached-blobs.js";
import { CompressedFile } from "../cache/compressed-file.js";
import { openFd, readAt } from "../cache/raw-file.js";
import { clearVerified, type WholeFile } from "../cache/verified-marks.js";
import { indexPathsIn } from "../index/files.js";
import { loadIndex } from "../index/load.js";
import type { SpanTable } from "../layer/span-table.js";
import { SPAN_PRESENT, SPAN_SUSPECT, SpanStore } from "../native/layer.js";
import { algorithmOf, hasherOf, hexOf } from "../oci/digest.js";
import { openLayerTable } from "./indexed-layer.js";

const PIECE_BYTES = 1 << 20;
/** Between two tries to discard what another process decodes from. */
const READER_POLL_MS = 20;

export interface BlobVerdict {
  readonly digest: string;
  /** `partial`: only a whole blob has a digest to check. */
  readonly compressed: "absent" | "partial" | "right" | "wrong";
  readonly spansChecked: number;
  readonly wrongSpans: readonly number[];
  /** What could not be checked and why, in one sentence each. */
  readonly unchecked: readonly string[];
}

export interface VerifyOptions {
  /** Discard what is wrong, so that it is fetched again. */
  readonly repair: boolean;
  readonly signal?: AbortSignal;
}

/** Checks what the cache holds of one blob; mounts may use it meanwhile. Memory: 1 MiB and the span table. */
export async function verifyBlob(cachePath: string, blob: CachedBlob, options: VerifyOptions): Promise<BlobVerdict> {
  await using use = await BlobUse.open(blob.path, { note: false });
  const compressed = await verifyCompressed(use.path, blob, options);
  const names = blob.files.map(({ name }) => name).filter((name): name is WholeFile => /^data-[0-9a-f]+$/.test(name));
  const unchecked: string[] = [];
  const spans = { checked: 0, wrong: [] as number[] };
  if (names.length > 0) {
    try {
      await using index = await openOwnTable(cachePath, blob);
      const name: WholeFile = `data-${Buffer.from(index.table.partition).toString("hex").slice(0, 16)}`;
      for (const other of names)
        if (other !== name) unchecked.push(`${other}: made with an index that is not in the cache`);
      if (names.includes(name)) Object.assign(spans, await verifySpans(use.path, name, index.table, options));
    } catch (error) {
      if (!isOcifsError(error) || error.code === "aborted") throw error;
      unchecked.push(error.message);
    }
  }
  return { digest: blob.digest, compressed, spansChecked: spans.checked, wrongSpans: spans.wrong, unchecked };
}

async function verifyCompressed(
  directory: string,
  blob: CachedBlob,
  { repair, signal }: VerifyOptions,
): Promise<BlobVerdict["compressed"]> {
  const file = await CompressedFile.openExisting(join(directory, "compressed"));
  if (!file) return "absent";
  await using _ = file;
  const whole = { begin: 0, end: file.sizeBytes };
  const hash = hasherOf(blob.digest);
  const buffer = Buffer.alloc(PIECE_BYTES);
  for (let at = 0; at < file.sizeBytes; ) {
    throwIfAborted(signal, "verify");
    const piece = { begin: at, end: Math.min(file.sizeBytes, at + PIECE_BYTES) };
    // The lock first: what is there then stays until it was read.
    if (!file.tryReadLock(piece) || !file.has(piece)) return file.presentBytes() === 0 ? "absent" : "partial";
    const length = await readAt(file.fd, buffer.subarray(0, piece.end - at), at).finally(() => file.readUnlock(piece));
    if (length === 0) return "partial";
    hash.update(buffer.subarray(0, length));
    at += length;
  }
  if (hash.digest("hex") === hexOf(blob.digest)) return "right";
  if (repair) {
    await clearVerified(directory, "compressed");
    while (!file.tryDiscard(whole)) await delay(READER_POLL_MS, undefined, { signal });
  }
  return "wrong";
}

async function verifySpans(
  directory: string,
  name: WholeFile,
  table: SpanTable,
  { repair, signal }: VerifyOptions,
): Promise<{ checked: number; wrong: number[] }> {
  const spansPath = join(directory, name.replace(/^data/, "spans"));
  await access(spansPath).catch((cause: Error) => {
    throw new OcifsError("not-found", `${name}: there are no span states beside it`, { cause });
  });
  const store = new SpanStore({
    dataFd: await openFd(join(directory, name), "update"),
    spansFd: await openFd(spansPath, "update"),
    outStarts: table.outStarts,
    partition: table.partition,
    bootId: await bootId(),
    memoryBytes: PIECE_BYTES,
  });
  const wrong: number[] = [];
  let checked = 0;
  try {
    for (let span = 0; span < table.spanCount; span++) {
      throwIfAborted(signal, "verify");
      const digest = table.digest(span);
      if (!digest) throw new OcifsError("not-found", `${name}: its index records no digests of spans`);
      const state = store.state(span);
      if (state !== SPAN_PRESENT && state !== SPAN_SUSPECT) continue;
      // A suspect one is settled by this: wrong means absent, as at its first use.
      const right = state === SPAN_SUSPECT ? await store.checkSuspect(span, digest) : await isRight(store, table, span);
      if (right === undefined) continue;
      checked += 1;
      if (right) continue;
      wrong.push(span);
      if (!repair) continue;
      await clearVerified(directory, name);
      await store.evict(span, span);
    }
    await store.flushClean();
  } finally {
    store.close();
  }
  return { checked, wrong };
}

/** Undefined when the span was given up meanwhile. */
async function isRight(store: SpanStore, table: SpanTable, span: number): Promise<boolean | undefined> {
  const end = table.outStarts[span + 1] ?? 0;
  const hash = createHash("sha256");
  for (let at = table.outStarts[span] ?? 0; at < end; ) {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, end - at));
    if ((await store.read(at, piece)) !== true) return undefined;
    hash.update(piece);
    at += piece.length;
  }
  return hash.digest().equals(table.digest(span) ?? Buffer.alloc(0));
}

/** The span table of the index that the cache has of a blob. */
async function openOwnTable(
  cachePath: string,
  blob: CachedBlob,
): Promise<{ readonly table: SpanTable } & AsyncDisposable> {
  const directory = join(cachePath, "indexes", algorithmOf(blob.digest), hexOf(blob.digest));
  const { tarindexPath, zinfoPath, jsonPath } = indexPathsIn(directory, blob.digest);
  const zinfoThere = await access(zinfoPath).then(
    () => true,
    () => false,
  );
  const index = await loadIndex({
    tarindexPath,
    jsonPath,
    blobDigest: blob.digest,
    ...(zinfoThere ? { zinfoPath } : {}),
  });
  const { manifest } = index;
  if (!manifest) throw new OcifsError("internal", `index ${jsonPath}: loaded without its JSON`);
  const cleanup = new Cleanup();
  try {
    const table = await openLayerTable({ layer: { blob: manifest.blob, encoding: undefined }, index }, cleanup);
    return { table, [Symbol.asyncDispose]: () => cleanup[Symbol.asyncDispose]() };
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}
