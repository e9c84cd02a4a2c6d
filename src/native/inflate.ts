import { limits } from "../base/limits.js";
import { addon, awaitNative, callNative } from "./addon.js";

/** What a recorder found; sizes are bytes. */
export interface RecordedGzip {
  readonly compressedSizeBytes: number;
  readonly uncompressedSizeBytes: number;
  readonly checkpointCount: number;
  /** Bytes behind the last member and its zero padding. Ignored, as gzip(1) does with a warning. */
  readonly trailingBytes: number;
}

/** A decoder that is fed a blob piece by piece. */
export interface ByteStepper {
  /**
   * Takes `input` until it is used up or `output` is full, on a pool thread; neither may be changed before the promise
   * settles. When `output` came back full, call again, with the rest of the input or with none: output may be waiting.
   * Errors: `corrupt`, `mismatch` (a checksum or a length), `limit` (of checkpoints, of a zstd window), `no-space` and `io` (the
   * zinfo file); the decoder is then of no more use. `usage` while another step runs.
   */
  step(input: Uint8Array, output: Uint8Array): Promise<{ readonly consumed: number; readonly produced: number }>;
  /** Frees its memory; safe at any time, also during a step. */
  close(): void;
}

/** Inflates a gzip blob that streams by and writes its zinfo (version 2). */
export interface GzipRecorder extends ByteStepper {
  /** Writes the zinfo's header. `corrupt` when the blob ends inside a member. Durability is the caller's (fsync). */
  finish(): RecordedGzip;
  /** Uncompressed bytes before each checkpoint that was made since the last call: where spans begin. `usage` while a step runs. */
  takeSpanStarts(): Float64Array;
}

/** Decodes a zstd blob (RFC 8878) that streams by: any number of frames, skippable ones between them. */
export interface ZstdStream extends ByteStepper {
  /** `corrupt` when the blob ends inside a frame or has none. */
  finish(): void;
}

export interface GzipRecorderOptions {
  /** An empty file, written with pwrite at the records' own offsets. May be closed after `close`. */
  readonly zinfoFd: number;
  /** At least 32768. A checkpoint is recorded at the first block boundary more than this behind the last one. */
  readonly spanSizeBytes: number;
  /** Default and most: `limits.checkpoints`. */
  readonly maxCheckpoints?: number;
  /** Inflate with zlib even where ISA-L is available; the zinfo is the same, recording takes longer. */
  readonly zlib?: boolean;
}

/** One span of a gzip blob, as `SpanIndex` gives it. */
export interface SpanDecodeOptions {
  /** The compressed blob, or a sparse file in which [begin, end) is present. May be closed once the promise settles. */
  readonly fd: number;
  readonly begin: number;
  readonly end: number;
  /** High bits of byte `begin` that belong to the span, 0 to 7. */
  readonly bits: number;
  /** Byte `begin` starts a gzip header (span 0); `bits` and `window` are then ignored. */
  readonly atHeader: boolean;
  /** 32768 bytes; none when the span starts at a member. */
  readonly window?: Uint8Array | undefined;
  readonly outSizeBytes: number;
  /** The next checkpoint's window, which the output must lead to. */
  readonly nextWindow?: Uint8Array | undefined;
  /** The stream must end behind the span. */
  readonly last: boolean;
  /** Decode with zlib, the reference, instead of ISA-L. */
  readonly zlib?: boolean;
}

/** The table of a zinfo: one element a record. */
export interface ZinfoTable {
  readonly in: Float64Array;
  readonly out: Float64Array;
  readonly bits: Uint8Array;
}

interface Native {
  decodeSpan(options: SpanDecodeOptions): Promise<Uint8Array>;
  readZinfoTable(fd: number, count: number): Promise<ZinfoTable>;
  openGzipRecorder(options: GzipRecorderOptions): GzipRecorder;
  openZstdStream(): ZstdStream;
  zlibVersion(): string;
}

const native = addon as unknown as Native;

/** See `GzipRecorder`. `usage` for a span size below 32768. */
export function openGzipRecorder(options: GzipRecorderOptions): GzipRecorder {
  const recorder = callNative(() => native.openGzipRecorder({ maxCheckpoints: limits.checkpoints, ...options }));
  return {
    step: (input, output) => awaitNative(async () => recorder.step(input, output)),
    finish: () => callNative(() => recorder.finish()),
    takeSpanStarts: () => callNative(() => recorder.takeSpanStarts()),
    close: () => recorder.close(),
  };
}

/** See `ZstdStream`. */
export function openZstdStream(): ZstdStream {
  const stream = callNative(() => native.openZstdStream());
  return {
    step: (input, output) => awaitNative(async () => stream.step(input, output)),
    finish: () => callNative(() => stream.finish()),
    close: () => stream.close(),
  };
}

/**
 * Decodes one span of at most 64 MiB into memory, on a pool thread. Errors: `corrupt` (no valid gzip, or it ends early),
 * `mismatch` (valid, but not what the checkpoints say), `limit`, `io`, `usage`.
 */
export function decodeSpan(options: SpanDecodeOptions): Promise<Uint8Array> {
  return awaitNative(async () => native.decodeSpan(options));
}

/** Reads `count` records of a zinfo without their windows. Values are only checked to be below 2^53 (`corrupt`). */
export function readZinfoTable(fd: number, count: number): Promise<ZinfoTable> {
  return awaitNative(async () => native.readZinfoTable(fd, count));
}

/** Version of the zlib inside the addon (linked statically; the addon refuses to load when it would use Node's). */
export function zlibVersion(): string {
  return callNative(() => native.zlibVersion());
}
