import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { FileTree, noEntry, rootEntry } from "../erofs/file-tree.js";
import { fileType, fileTypeMask } from "../erofs/format.js";
import { noXattrs } from "../erofs/inode-table.js";
import type { IndexManifest } from "../index/manifest.js";
import type { DanglingLink } from "../index/tar-tree.js";
import type { ErofsImage } from "../native/erofs.js";
import { ErofsDirectoryReader, type ErofsListedEntry } from "../native/erofs-directory.js";
import { normalizePath } from "../tar/path.js";
import { quoteBytes } from "../tar/quote.js";
import { whiteoutOf } from "../tar/whiteout.js";
import { LayerInodes, MergedXattrs } from "./merge-inodes.js";
import { type Place, Places } from "./merge-places.js";

const slash = 0x2f;

export interface LayerTree {
  readonly image: ErofsImage;
  /** What the tarindex has no room for. Undefined for an index of another tool: then every directory counts as described by the layer. */
  readonly facts: Pick<IndexManifest, "impliedDirectories" | "danglingLinks"> | undefined;
  /** 1-based slot of the layer in the merged tarindex. */
  readonly device: number;
}

/** A directory of the layer that is still to be read, and where its entries go. */
type Todo =
  | { readonly nid: number; readonly place: Place }
  | { readonly nid: number; readonly parent: Place; readonly name: Uint8Array };

/**
 * The layers of an image applied one on another, base first. Files in the layers' trees are whiteouts by their names, whatever their
 * type, and never get into the merged tree.
 */
export class MergedTree {
  readonly tree = new FileTree({
    permissions: 0o755,
    uid: 0,
    gid: 0,
    mtimeSeconds: 0,
    mtimeNanoseconds: 0,
    xattrs: noXattrs,
  });
  readonly #xattrs = new MergedXattrs(this.tree.xattrs);
  readonly #places = new Places(this.tree);
  /** By entry: the last layer (from 1) that put something there or below. Its own whiteouts leave that alone. */
  #touched = new Uint16Array(1024);
  #layer = 0;
  #entries = 0;

  /** Applies one layer. Throws `corrupt`, `unsupported` or `limit`; the tree is then of no use any more. */
  apply({ image, facts, device }: LayerTree): void {
    this.#layer++;
    const firstInode = this.tree.inodes.count;
    const links = (facts?.danglingLinks ?? []).map((link) => this.#resolveBelow(link));
    const inodes = new LayerInodes(this.tree, this.#xattrs, image, device);
    const { rootNid } = image.info();
    const implied = new Set(facts?.impliedDirectories);
    if (!implied.has(rootNid)) {
      this.tree.inodes.setMetadata(this.tree.inode(rootEntry), inodes.metadataOfNid(rootNid));
    }
    const reader = new ErofsDirectoryReader(image);
    const seen = new Set([rootNid]);
    const todo: Todo[] = [{ nid: rootNid, place: this.#places.root }];
    const pass: Pass = { inodes, implied, seen, todo };
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      const place = "place" in next ? next.place : this.#places.child(next.parent, next.name);
      reader.forEach(next.nid, (entry) => this.#add(entry, place, pass));
    }
    for (const link of links) this.#addLink(link, firstInode);
  }

  #add(entry: ErofsListedEntry, place: Place, pass: Pass): void {
    this.#entries++;
    if (this.#entries > limits.imageEntries) {
      throw new OcifsError("limit", `the image's layers have more than ${limits.imageEntries} entries`);
    }
    const whiteout = whiteoutOf(entry.name);
    if (whiteout.kind === "none") {
      this.#addEntry(entry, place, pass);
    } else if (place.entry !== noEntry && whiteout.kind === "remove") {
      this.#hideBelow([this.tree.find(place.entry, whiteout.name)]);
    } else if (place.entry !== noEntry && whiteout.kind === "opaque") {
      this.#hideBelow(this.#childrenOf(place.entry));
    }
  }

  #addEntry(entry: ErofsListedEntry, place: Place, { inodes, implied, seen, todo }: Pass): void {
    const { tree } = this;
    const isDirectory = (entry.mode & fileTypeMask) === fileType.directory.mode;
    const { nid } = entry;
    if (isDirectory) {
      if (seen.has(nid)) {
        throw new OcifsError(
          "corrupt",
          `directory inode ${nid} has more than one name, one is ${quoteBytes(entry.name)}`,
        );
      }
      seen.add(nid);
      if (implied.has(nid)) {
        todo.push({ nid, parent: place, name: entry.name.slice() });
        return;
      }
    }
    const directory = this.#places.make(place);
    // Through a symbolic link the layer has put something else where this directory was: that is the later one.
    if (directory === noEntry) return;
    const at = tree.place(directory, entry.name);
    if (isDirectory && tree.isDirectory(at)) tree.inodes.setMetadata(tree.inode(at), inodes.metadataOf(entry));
    else tree.link(at, inodes.inodeOf(entry));
    this.#touch(at);
    if (isDirectory) todo.push({ nid, place: { entry: at } });
  }

  #childrenOf(directory: number): number[] {
    const children: number[] = [];
    for (let child = this.tree.firstChild(directory); child !== noEntry; child = this.tree.nextSibling(child)) {
      children.push(child);
    }
    return children;
  }

  /** Removes what layers below have in these entries, directories with all that is in them. */
  #hideBelow(entries: number[]): void {
    const todo = entries;
    for (let entry = todo.pop(); entry !== undefined; entry = todo.pop()) {
      if (entry === noEntry || this.tree.inode(entry) < 0) continue;
      if (this.#touched[entry] !== this.#layer) this.tree.unlink(entry);
      else if (this.tree.isDirectory(entry)) for (const child of this.#childrenOf(entry)) todo.push(child);
    }
  }

  #touch(entry: number): void {
    if (this.tree.entryCount > this.#touched.length) {
      const grown = new Uint16Array(Math.ceil(this.tree.entryCount * 1.5));
      grown.set(this.#touched);
      this.#touched = grown;
    }
    for (let at = entry; this.#touched[at] !== this.#layer; at = this.tree.parent(at)) this.#touched[at] = this.#layer;
  }

  /** Before anything of the layer is applied: whatever it removes or replaces, the link is to the file that was there. */
  #resolveBelow(link: DanglingLink): ResolvedLink {
    const path = normalizePath(link.path, "hard link");
    const target = normalizePath(link.target, "hard link target");
    return { path, target, inode: this.#places.inodeAt(target) };
  }

  #addLink(link: ResolvedLink, firstInode: number): void {
    const { tree } = this;
    const nameAt = link.path.lastIndexOf(slash) + 1;
    let { inode } = link;
    if (inode < 0) {
      // The way to the target may lead through a symbolic link of this layer; the target itself is of one below.
      inode = this.#places.inodeAt(link.target);
      if (inode >= firstInode) inode = -1;
    }
    const isDirectory = inode >= 0 && (tree.inodes.mode(inode) & fileTypeMask) === fileType.directory.mode;
    if (inode < 0 || isDirectory || link.path.length === 0) {
      throw new OcifsError(
        "corrupt",
        `${quoteBytes(link.path)}: hard link to ${quoteBytes(link.target)}, which ${isDirectory ? "is a directory" : "is neither earlier in its layer nor in a layer below"}`,
      );
    }
    let place = this.#places.root;
    for (const name of namesOf(link.path.subarray(0, nameAt))) place = this.#places.child(place, name);
    const directory = this.#places.make(place);
    if (directory === noEntry) return;
    const at = tree.place(directory, link.path, nameAt);
    tree.link(at, inode);
    this.#touch(at);
  }
}

interface Pass {
  readonly inodes: LayerInodes;
  readonly implied: ReadonlySet<number>;
  /** Nids of directories. */
  readonly seen: Set<number>;
  readonly todo: Todo[];
}

interface ResolvedLink extends DanglingLink {
  /** -1: not found. */
  readonly inode: number;
}

/** The components of a normalized path that ends with a slash or is empty. */
function* namesOf(path: Uint8Array): Generator<Uint8Array> {
  for (let start = 0; start < path.length; ) {
    const end = path.indexOf(slash, start);
    yield path.slice(start, end);
    start = end + 1;
  }
}
