import { addon, awaitNative, callNative } from "./addon.js";

const native = addon as unknown as {
  dataRanges(fd: number, begin: number, end: number): number[];
  punchHole(fd: number, begin: number, end: number): void;
  tryLock(fd: number, begin: number, end: number, exclusive: boolean): boolean;
  unlock(fd: number, begin: number, end: number): void;
  memoryFile(sizeBytes: number): number;
  treeUsage(path: string): Promise<number>;
};

/** Half-open byte range. */
export interface ByteRange {
  readonly begin: number;
  readonly end: number;
}

/** The parts of [begin, end) of a sparse file that hold data, in order (SEEK_DATA / SEEK_HOLE). */
export function dataRanges(fd: number, begin: number, end: number): ByteRange[] {
  const flat = callNative(() => native.dataRanges(fd, begin, end));
  const ranges: ByteRange[] = [];
  for (let i = 0; i + 1 < flat.length; i += 2) ranges.push({ begin: flat[i] ?? 0, end: flat[i + 1] ?? 0 });
  return ranges;
}

/** Makes [begin, end) a hole; the file's size stays. */
export function punchHole(fd: number, begin: number, end: number): void {
  callNative(() => native.punchHole(fd, begin, end));
}

/**
 * Tries to take an open-file-description lock on [begin, end). False when another open file (this or another process)
 * holds a conflicting one. Ranges locked through the same descriptor never conflict.
 */
export function tryLock(fd: number, begin: number, end: number, mode: "shared" | "exclusive"): boolean {
  return callNative(() => native.tryLock(fd, begin, end, mode === "exclusive"));
}

export function unlock(fd: number, begin: number, end: number): void {
  callNative(() => native.unlock(fd, begin, end));
}

/** An unlinked in-memory file, all holes. The caller closes the descriptor. */
export function openMemoryFile(sizeBytes: number): number {
  return callNative(() => native.memoryFile(sizeBytes));
}

/** Bytes that the files and directories at and below `path` take up on disk; what vanishes meanwhile does not count. */
export function treeUsage(path: string): Promise<number> {
  return awaitNative(() => native.treeUsage(path));
}
