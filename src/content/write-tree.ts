import { mapConcurrently } from "../base/concurrency.js";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { fileTypeMask, fileTypes } from "../erofs/reader.js";
import { applyTree, type TreeCounts } from "../native/content.js";
import type { ErofsImage } from "../native/erofs.js";
import { ErofsDirectoryReader, type ErofsListedEntry, listedData } from "../native/erofs-directory.js";
import { packRanges, type SourceRange, type TreeInode, TreeRecords, treeOps } from "../native/tree-records.js";

/** Records a native call applies, and calls at a time: enough for the processors, and one of libuv's four threads stays free. */
const BATCH_BYTES = 96 << 10;
const BATCHES_AT_ONCE = 3;
/** What is planned before it is carried out. */
const PLANNED_BYTES = 8 << 20;
const slash = 0x2f;

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
  readonly #links = new TreeRecords();
  readonly #first = new Map<number, Uint8Array>();
  readonly #reader: ErofsDirectoryReader;
  #current = new TreeRecords();
  #batches: Uint8Array[] = [];
  #planned = 0;
  #counts = { entries: 0, cloned: 0, copied: 0, skipped: 0 };

  constructor(o: WriteTreeOptions) {
    this.#o = o;
    this.#reader = new ErofsDirectoryReader(o.tree);
  }

  async run(): Promise<TreeCounts> {
    const { tree } = this.#o;
    const { rootNid } = tree.info();
    for (const { path, nid } of this.#walk(rootNid)) {
      this.#reader.forEach(nid, (entry) => this.#plan(joined(path, entry.name), entry));
      if (this.#planned > PLANNED_BYTES) await this.#carryOut();
    }
    await this.#carryOut();
    // Deepest or not does not matter any more: nothing is made in them.
    const metadata = new TreeRecords();
    metadata.add(treeOps.directoryMetadata, new Uint8Array(0), {
      ...tree.getattr(rootNid),
      xattrs: packedXattrs(tree, rootNid),
    });
    for (const { path, nid } of this.#walk(rootNid)) {
      this.#reader.forEach(nid, (entry) => {
        if (isDirectory(entry)) metadata.add(treeOps.directoryMetadata, joined(path, entry.name), inodeOf(entry));
      });
      if (metadata.sizeBytes > PLANNED_BYTES) await this.#apply(metadata.take());
    }
    await this.#apply(metadata.take());
    return this.#counts;
  }

  /** Every directory, parents first. A tree that has one twice does not end. */
  *#walk(rootNid: number): Generator<{ path: Uint8Array; nid: number }> {
    const { signal } = this.#o;
    const seen = new Set([rootNid]);
    const queue: { path: Uint8Array; nid: number }[] = [{ path: new Uint8Array(0), nid: rootNid }];
    for (let at = 0; at < queue.length; at++) {
      throwIfAborted(signal, "import");
      const next = queue[at];
      if (!next) break;
      yield next;
      this.#reader.forEach(next.nid, (entry) => {
        if (!isDirectory(entry)) return;
        if (seen.has(entry.nid))
          throw new OcifsError("corrupt", `tree: directory inode ${entry.nid} has more than one name`);
        seen.add(entry.nid);
        const path = joined(next.path, entry.name);
        if (path.length > limits.pathBytes)
          throw new OcifsError("limit", `tree: a path of ${path.length} bytes, Linux allows ${limits.pathBytes}`);
        queue.push({ path, nid: entry.nid });
      });
    }
  }

  #plan(path: Uint8Array, entry: ErofsListedEntry): void {
    const type = entry.mode & fileTypeMask;
    this.#planned += path.length + entry.xattrs.length + 64;
    if (type === fileTypes.directory) {
      this.#directories.add(treeOps.directory, path, inodeOf(entry));
      return;
    }
    if (entry.nlink > 1) {
      const first = this.#first.get(entry.nid);
      if (first) {
        this.#links.add(treeOps.hardlink, path, inodeOf(entry), first);
        return;
      }
      this.#first.set(entry.nid, path);
    }
    if (type === fileTypes.file) this.#planFile(path, entry);
    else if (type === fileTypes.symlink) this.#current.add(treeOps.symlink, path, inodeOf(entry), entry.target);
    else this.#current.add(treeOps.node, path, inodeOf(entry));
    if (this.#current.sizeBytes > BATCH_BYTES) this.#batches.push(this.#current.take());
  }

  #planFile(path: Uint8Array, entry: ErofsListedEntry): void {
    const inode = inodeOf(entry);
    if (entry.sizeBytes === 0) {
      this.#current.add(treeOps.fileFromRanges, path, inode);
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
      this.#current.add(op, path, inode, place.name, place.source);
      return;
    }
    const pieces = whole ? [{ offset: 0, sizeBytes: entry.sizeBytes, sourceOffset: entry.dataOffset }] : ranges;
    this.#current.add(treeOps.fileFromRanges, path, inode, packRanges(pieces), place.source);
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

  async #carryOut(): Promise<void> {
    this.#planned = 0;
    await this.#apply(this.#directories.take());
    this.#batches.push(this.#current.take());
    const batches = this.#batches;
    this.#batches = [];
    await mapConcurrently(batches, BATCHES_AT_ONCE, (batch) => this.#apply(batch), this.#o.signal);
    await this.#apply(this.#links.take());
  }

  async #apply(records: Uint8Array): Promise<void> {
    if (records.length === 0) return;
    throwIfAborted(this.#o.signal, "import");
    const counts = await applyTree(this.#o.rootFd, this.#o.sources, this.#privileged, records);
    for (const key of ["entries", "cloned", "copied", "skipped"] as const) this.#counts[key] += counts[key];
  }
}

function isDirectory({ mode }: ErofsListedEntry): boolean {
  return (mode & fileTypeMask) === fileTypes.directory;
}

/** A listed entry's fields are good until the listing goes on; records copy them. */
function inodeOf(entry: ErofsListedEntry): TreeInode {
  return entry;
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
