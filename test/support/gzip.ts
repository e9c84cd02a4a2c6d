import { createHash } from "node:crypto";
import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SpanIndex } from "../../src/gzip/span-index.js";
import { openZinfo, windowSizeBytes, type Zinfo } from "../../src/gzip/zinfo.js";
import { decodeSpan, openGzipRecorder, type RecordedGzip } from "../../src/native/inflate.js";
import { openLayerHash } from "../../src/native/sha256.js";

/** A fresh directory that goes when it is disposed of. */
export async function tempDir(): Promise<AsyncDisposable & { readonly path: string; file(name: string): string }> {
  const path = await mkdtemp(join(tmpdir(), "ocifs-gzip-"));
  return {
    path,
    file: (name) => join(path, name),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}

export interface RecordOptions {
  readonly spanSizeBytes: number;
  readonly zlib?: boolean;
  readonly inputPieceBytes?: number;
  readonly outputPieceBytes?: number;
}

/** Streams `blob` through a recorder into the zinfo file `path`. */
export async function recordGzip(
  blob: Uint8Array,
  path: string,
  options: RecordOptions,
): Promise<RecordedGzip & { readonly output: Buffer; readonly digest: Uint8Array; readonly spanDigests: Uint8Array }> {
  await using file = await open(path, "w+");
  const { spanSizeBytes, zlib = false, inputPieceBytes = 65536, outputPieceBytes = 65536 } = options;
  const recorder = openGzipRecorder({ zinfoFd: file.fd, spanSizeBytes, zlib });
  const hash = openLayerHash();
  try {
    const output: Buffer[] = [];
    for (let at = 0, full = false; at < blob.length || full; ) {
      const piece = Buffer.alloc(outputPieceBytes);
      const { consumed, produced } = await recorder.step(blob.subarray(at, at + inputPieceBytes), piece);
      output.push(piece.subarray(0, produced));
      await hash.update(piece.subarray(0, produced), recorder.takeSpanStarts());
      at += consumed;
      full = produced === piece.length;
    }
    return { ...recorder.finish(), ...hash.finish(), output: Buffer.concat(output) };
  } finally {
    recorder.close();
  }
}

/** The window of a record, or none for -1. */
export async function readWindow(zinfo: Zinfo, record: number): Promise<Uint8Array | undefined> {
  if (record < 0) return undefined;
  const offset = zinfo.windowOffset(record);
  if (offset < 0) return undefined;
  const window = Buffer.alloc(windowSizeBytes);
  const bytes = await readFileRange(zinfo, window, offset);
  return bytes === windowSizeBytes ? window : undefined;
}

async function readFileRange(zinfo: Zinfo, buffer: Buffer, offset: number): Promise<number> {
  await using file = await open(`/proc/self/fd/${zinfo.fd}`, "r");
  return (await file.read(buffer, 0, buffer.length, offset)).bytesRead;
}

/** Decodes one span as the daemon does: range, bits and windows from the index. */
export async function decodeIndexedSpan(
  blobFd: number,
  zinfo: Zinfo,
  index: SpanIndex,
  i: number,
  zlib = false,
): Promise<Uint8Array> {
  const { windowRecord, nextWindowRecord, ...span } = index.span(i);
  return decodeSpan({
    ...span,
    fd: blobFd,
    zlib,
    window: await readWindow(zinfo, windowRecord),
    nextWindow: await readWindow(zinfo, nextWindowRecord),
  });
}

/** Decodes a whole blob span by span, through its zinfo file. */
export async function decodeAll(
  blobPath: string,
  zinfoPath: string,
  options: { readonly uncompressedSizeBytes: number; readonly streamEnds: boolean; readonly zlib?: boolean },
): Promise<Buffer> {
  const blobSizeBytes = (await readFile(blobPath)).length;
  await using blob = await open(blobPath, "r");
  await using zinfo = await openZinfo(zinfoPath, { blobSizeBytes });
  const index = new SpanIndex(zinfo, { blobSizeBytes, ...options });
  const spans: Uint8Array[] = [];
  for (let i = 0; i < index.spanCount; i++) {
    spans.push(await decodeIndexedSpan(blob.fd, zinfo, index, i, options.zlib));
  }
  return Buffer.concat(spans);
}

/** Writes a blob, records it and returns both paths with what was found. */
export async function indexBlob(dir: { file(name: string): string }, blob: Uint8Array, options: RecordOptions) {
  const blobPath = dir.file("blob.gz");
  const zinfoPath = dir.file("blob.zinfo");
  await writeFile(blobPath, blob);
  return { blobPath, zinfoPath, ...(await recordGzip(blob, zinfoPath, options)) };
}

export function sha256(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

/** Bytes that do not compress, the same for the same seed. */
export function noise(sizeBytes: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  let state = seed >>> 0 || 1;
  for (let i = 0; i < sizeBytes; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state & 0xff;
  }
  return bytes;
}

/** Bytes that compress as text does, the same for the same seed. */
export function prose(sizeBytes: number, seed = 1): Buffer {
  const words = ["layer", "span", "checkpoint", "of", "the", "window", "member\n", "1032"];
  const choice = noise(Math.ceil(sizeBytes / 2), seed);
  let text = "";
  for (let i = 0; text.length < sizeBytes; i++) {
    const n = choice[i % choice.length] ?? 0;
    text += n > 250 ? `${i} ` : `${words[n % words.length]} `;
  }
  return Buffer.from(text.slice(0, sizeBytes));
}
