import { addon, awaitNative, callNative } from "./addon.js";

/** How file contents came to where they are; counts of files. */
export interface CopyCounts {
  /** Extents are shared with the source. */
  readonly cloned: number;
  readonly copied: number;
}

export interface TreeCounts extends CopyCounts {
  readonly entries: number;
  /** Owners and xattrs that were left out for want of privileges. */
  readonly skipped: number;
}

const native = addon as unknown as {
  applyTree(root: number, sources: readonly number[], privileged: boolean, records: Uint8Array): Promise<TreeCounts>;
  putObjects(objects: number, source: number, ranges: Float64Array): Promise<CopyCounts & { digests: Buffer }>;
  stageFile(
    directory: number,
    name: Uint8Array,
    source: number,
    sourceName: Uint8Array | undefined,
    sizeBytes: number,
  ): Promise<CopyCounts & { fd: number }>;
  verityOf(fd: number, offset: number, sizeBytes: number): Promise<Buffer>;
  openBeneath(directory: number, name: Uint8Array, sizeBytes: number): number;
  syncFileSystem(fd: number): Promise<void>;
  renameNew(from: string, to: string): void;
};

/**
 * Applies records (see tree-records.ts) below the directory `root`, in order. `sources` are what records name by position. The first
 * failure ends it and names the path.
 */
export function applyTree(
  root: number,
  sources: readonly number[],
  privileged: boolean,
  records: Uint8Array,
): Promise<TreeCounts> {
  return awaitNative(() => native.applyTree(root, sources, privileged, records));
}

/**
 * Makes files named by their fs-verity digest (`xx/rest`) below the directory `objects`, one for each offset and size in `ranges`
 * of the file `source`. `digests`: 32 bytes each, in order, of what was written.
 */
export function putObjects(
  objects: number,
  source: number,
  ranges: Float64Array,
): Promise<CopyCounts & { readonly digests: Buffer }> {
  return awaitNative(() => native.putObjects(objects, source, ranges));
}

/** Where a whole file comes from: a name below a directory, or a descriptor. */
export type FileSource =
  | { readonly directory: number; readonly name: Uint8Array }
  | { readonly fd: number; readonly name?: undefined };

/**
 * A new file `name` in `directory` with all of the source's content: shared extents, else a copy. The source must be a regular file
 * of this size, reached without symbolic links, and so must be what came of it (`mismatch`). The caller closes `fd`.
 */
export function stageFile(
  directory: number,
  name: Uint8Array,
  source: FileSource,
  sizeBytes: number,
): Promise<CopyCounts & { readonly fd: number }> {
  const from = source.name === undefined ? source.fd : source.directory;
  return awaitNative(() => native.stageFile(directory, name, from, source.name, sizeBytes));
}

/** The fs-verity digest (sha256, 4 KiB blocks, no salt) of a part of a file, taken as a file of its own. */
export function verityOf(fd: number, offset: number, sizeBytes: number): Promise<Buffer> {
  return awaitNative(() => native.verityOf(fd, offset, sizeBytes));
}

/** Opens a regular file of this size below a directory for reading, through no symbolic link. `mismatch` for anything else. */
export function openBeneath(directory: number, name: Uint8Array, sizeBytes: number): number {
  return callNative(() => native.openBeneath(directory, name, sizeBytes));
}

/** Everything written to the file system of `fd` is on its disk. */
export function syncFileSystem(fd: number): Promise<void> {
  return awaitNative(() => native.syncFileSystem(fd));
}

/** Renames unless something has the new name: `busy`. */
export function renameNew(from: string, to: string): void {
  callNative(() => native.renameNew(from, to));
}
