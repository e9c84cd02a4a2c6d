/**
 * Inflates a gzip stream once, front to back, and writes a zinfo with a checkpoint about every `spanSizeBytes`. The native
 * implementation is src/native/inflate.ts; tests have their own.
 */
export interface GzipRecorder {
  /**
   * Inflates from `input` into `output` on a pool thread; consumes ≤ input.length, produces ≤ output.length. Neither array may
   * change meanwhile. Call again with the rest until consumed == input.length and produced < output.length.
   */
  step(input: Uint8Array, output: Uint8Array): Promise<{ consumed: number; produced: number }>;
  /** After the last input: checks that the stream ended properly, and completes the zinfo file. */
  finish(): RecorderResult;
  /** Frees it; not while a step runs. */
  close(): void;
}

export interface RecorderResult {
  readonly compressedSizeBytes: number;
  readonly uncompressedSizeBytes: number;
  readonly checkpointCount: number;
  /** 32 bytes of SHA-256 of uncompressed bytes for each span: from a checkpoint to the next, the last to the end. */
  readonly spanDigests: Uint8Array;
  /** Bytes behind the last gzip member, which are no gzip. */
  readonly trailingBytes: number;
}

/** `zinfoFd` is open for reading and writing, empty, and stays the caller's. */
export type GzipRecorderFactory = (options: { zinfoFd: number; spanSizeBytes: number }) => GzipRecorder;
