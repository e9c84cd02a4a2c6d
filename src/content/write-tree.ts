import { availableParallelism } from "node:os";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { TaskGroup } from "../base/task-group.js";
import { fileTypeMask, fileTypes } from "../erofs/reader.js";
import { applyTree, type TreeCounts } from "../native/content.js";
import type { ErofsImage } from "../native/erofs.js";
import { ErofsDirectoryReader, type ErofsListedEntry, listedData } from "../native/erofs-directory.js";
import { packRanges, type SourceRange, TreeRecords, treeOps } from "../native/tree-records.js";

/** Records a native call applies, some 600 of them: it runs while the next ones are planned. */
const BATCH_BYTES = 64 << 10;
/** Calls at a time: more than there are processors wait for each other's locks, and one of libuv's four threads stays free. */
const BATCHES_AT_ONCE = Math.min(3, availableParallelism());
/** Links that wait for the files they name. */
const LINKS_BYTES = 8 << 20;
const slash = 0x2f;
const none = new Uint8Array(0);

/** Where a file's content is: a file of its own to be shared, one to be taken, or ranges of the layer's bytes. */
export type ContentPlace =
  | { readonly kind: "name" | "move"; readonly source: number; readonly name: Uint8Array }
  | { readonly kind: "ranges"; readonly source: number };

export interface WriteTreeOptions {
  readonly tree: ErofsImage;
  /** An empty directory. */
  readonly rootFd: number;
  /** Files and directories that content places name by position. */
  readonly sources: readonly number[];
  /** Of a file that begins at `offset` of a device (1-based); `whole`: it lies there in one piece. */
  readonly placeOf: (device: number, offset: number, sizeBytes: number, whole: boolean) => ContentPlace;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Makes a tree's files below a directory. As root with owners, devices and all xattrs; otherwise without owners and with user.* xattrs
 * only, which `skipped` counts. Each path is made once, below directories that were made here, so no symbolic link is followed.
 */
export async function writeTree(o: WriteTreeOptions): Promise<TreeCounts> {
  return await new TreeWriting(o).run();
}

class TreeWriting {
  readonly #o: WriteTreeOptions;
  readonly #privileged = process.geteuid?.() === 0;
  readonly #directories = new TreeRecords();
  readonly #files = new TreeRecords();
  readonly #links = new TreeRecords();
  readonly #first = new Map<number, Uint8Array>();
  readonly #reader: ErofsDirectoryReader;
  readonly #batches = new TaskGroup(BATCHES_AT_ONCE);
  #counts = { entries: 0, cloned: 0, copied: 0, skipped: 0 };

  constructor(o: WriteTreeOptions) {
    this.#o = o;
    this.#reader = new ErofsDirectoryReader(o.tree);
  }

  async run(): Promise<TreeCounts> {
    try {
      const directories = await this.#makeEntries();
      await this.#finishDirectories(directories);
      return this.#counts;
    } finally {
      // Nothing is made any more when the caller closes or removes the directory.
      await this.#batches.settled();
    }
  }

  /** Makes everything, and returns all directories, parents first. A tree that has one twice does not end. */
  async #makeEntries(): Promise<readonly PlannedDirectory[]> {
    const { rootNid } = this.#o.tree.info();
    const seen = new Set([rootNid]);
    const all: PlannedDirectory[] = [{ path: new Uint8Array(0), nid: rootNid }];
    for (let at = 0; at < all.length; at++) {
      const { path: parent, nid } = all[at] as PlannedDirectory;
      this.#reader.forEach(nid, (entry) => {
        this.#plan(parent, entry);
        if (!isDirectory(entry)) return;
        const path = joined(parent, entry.name);
        if (seen.has(entry.nid))
          throw new OcifsError("corrupt", `tree: directory inode ${entry.nid} has more than one name`);
        seen.add(entry.nid);
        if (path.length > limits.pathBytes)
          throw new OcifsError("limit", `tree: a path of ${path.length} bytes, Linux allows ${limits.pathBytes}`);
        all.push({ path, nid: entry.nid });
      });
      if (this.#files.sizeBytes + this.#directories.sizeBytes > BATCH_BYTES) await this.#startBatch();
      if (this.#links.sizeBytes > LINKS_BYTES) await this.#makeLinks();
    }
    await this.#makeLinks();
    return all;
  }

  /** Last and from the deepest up: what is made in a directory changes its times, and needs its permissions. */
  async #finishDirectories(all: readonly PlannedDirectory[]): Promise<void> {
    const { tree } = this.#o;
    const metadata = new TreeRecords();
    // Only root passes through a directory that has lost its permissions before what is below it.
    const carryOut = () => (this.#privileged ? this.#start(metadata.take()) : this.#apply(metadata.take()));
    for (const { path, nid } of all.toReversed()) {
      metadata.add(treeOps.directoryMetadata, path, none, { ...tree.getattr(nid), xattrs: packedXattrs(tree, nid) });
      if (metadata.sizeBytes > BATCH_BYTES) await carryOut();
    }
    await carryOut();
    await this.#batches.drain();
  }

  #plan(directory: Uint8Array, entry: ErofsListedEntry): void {
    const type = entry.mode & fileTypeMask;
    const { name } = entry;
    if (type === fileTypes.directory) {
      this.#directories.add(treeOps.directory, directory, name, entry);
      return;
    }
    if (entry.nlink > 1) {
      const first = this.#first.get(entry.nid);
      if (first) {
        this.#links.add(treeOps.hardlink, directory, name, entry, first);
        return;
      }
      this.#first.set(entry.nid, joined(directory, name));
    }
    if (type === fileTypes.file) this.#planFile(directory, name, entry);
    else if (type === fileTypes.symlink) this.#files.add(treeOps.symlink, directory, name, entry, entry.target);
    else this.#files.add(treeOps.node, directory, name, entry);
  }

  #planFile(directory: Uint8Array, name: Uint8Array, entry: ErofsListedEntry): void {
    if (entry.sizeBytes === 0) {
      this.#files.add(treeOps.fileFromRanges, directory, name, entry);
      return;
    }
    const whole = entry.dataKind === listedData.whole;
    const ranges = whole ? [] : this.#rangesOf(entry);
    const device = whole ? entry.device : (ranges[0]?.device ?? 1);
    const place = this.#o.placeOf(
      device,
      whole ? entry.dataOffset : (ranges[0]?.sourceOffset ?? 0),
      entry.sizeBytes,
      whole,
    );
    if (place.kind !== "ranges") {
      const op = place.kind === "move" ? treeOps.moveFrom : treeOps.fileFromName;
      this.#files.add(op, directory, name, entry, place.name, place.source);
      return;
    }
    const pieces = whole ? [{ offset: 0, sizeBytes: entry.sizeBytes, sourceOffset: entry.dataOffset }] : ranges;
    this.#files.add(treeOps.fileFromRanges, directory, name, entry, packRanges(pieces), place.source);
  }

  /** Of a sparse file, or one in several pieces; all of them lie on one device. */
  #rangesOf({ nid, sizeBytes }: ErofsListedEntry): (SourceRange & { device: number })[] {
    const ranges: (SourceRange & { device: number })[] = [];
    for (let at = 0; at < sizeBytes; ) {
      const extents = this.#o.tree.mapRange(nid, at, sizeBytes - at);
      if (extents.length === 0) throw new OcifsError("internal", `EROFS inode ${nid}: no extent at byte ${at}`);
      for (const extent of extents) {
        if (extent.kind === "index")
          throw new OcifsError(
            "unsupported",
            `EROFS inode ${nid}: file content in the index; this tree is none of a layer`,
          );
        if (extent.kind === "device") {
          const { fileOffset: offset, length, device, offset: sourceOffset } = extent;
          ranges.push({ offset, sizeBytes: length, sourceOffset, device });
        }
        at = extent.fileOffset + extent.length;
      }
    }
    return ranges;
  }

  /** A directory's parent is always in an earlier batch of directories, or before it in the same. */
  async #startBatch(): Promise<void> {
    await this.#apply(this.#directories.take());
    await this.#start(this.#files.take());
  }

  async #makeLinks(): Promise<void> {
    await this.#startBatch();
    await this.#batches.drain();
    await this.#apply(this.#links.take());
  }

  async #start(records: Uint8Array): Promise<void> {
    await this.#batches.start(() => this.#apply(records));
  }

  async #apply(records: Uint8Array): Promise<void> {
    if (records.length === 0) return;
    throwIfAborted(this.#o.signal, "import");
    const counts = await applyTree(this.#o.rootFd, this.#o.sources, this.#privileged, records);
    for (const key of ["entries", "cloned", "copied", "skipped"] as const) this.#counts[key] += counts[key];
  }
}

interface PlannedDirectory {
  /** From the root, which is the empty path. */
  readonly path: Uint8Array;
  readonly nid: number;
}

function isDirectory({ mode }: ErofsListedEntry): boolean {
  return (mode & fileTypeMask) === fileTypes.directory;
}

function joined(directory: Uint8Array, name: Uint8Array): Uint8Array {
  if (directory.length === 0) return name.slice();
  const path = new Uint8Array(directory.length + 1 + name.length);
  path.set(directory);
  path[directory.length] = slash;
  path.set(name, directory.length + 1);
  return path;
}

function packedXattrs(tree: ErofsImage, nid: number): Uint8Array {
  const parts = tree.listxattr(nid).map((name) => {
    const value = tree.getxattr(nid, name) ?? new Uint8Array(0);
    const head = Buffer.alloc(4);
    head.writeUInt16LE(name.length, 0);
    head.writeUInt16LE(value.length, 2);
    return Buffer.concat([head, name, value]);
  });
  return Buffer.concat(parts);
}
