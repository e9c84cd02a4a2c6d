import { type FileTree, noEntry, rootEntry } from "../erofs/file-tree.js";
import { fileType, fileTypeMask } from "../erofs/format.js";
import { noXattrs } from "../erofs/inode-table.js";

const slash = 0x2f;
const dot = 0x2e;
/** Linux follows at most 40 symbolic links in one path. */
const maximumHops = 40;

/**
 * A directory that a layer's entries go to: one of the merged tree, or one that is made when its first entry comes. A whiteout makes
 * no directory.
 */
export type Place =
  | { readonly entry: number }
  | { entry: typeof noEntry | number; readonly parent: Place; readonly name: Uint8Array };

/** Finds and makes directories in the merged tree as unpacking would: symbolic links of layers below are followed inside the root. */
export class Places {
  readonly #tree: FileTree;
  readonly root: Place = { entry: rootEntry };

  constructor(tree: FileTree) {
    this.#tree = tree;
  }

  /**
   * Where what a layer has in `name` goes when it has no entry for that directory itself: to the directory of that name, or the one a
   * symbolic link leads to. Anything else that is there gives way as soon as there is something to put in.
   */
  child(parent: Place, name: Uint8Array): Place {
    return this.#step(parent, name, { hops: 0 }) ?? { entry: noEntry, parent, name };
  }

  /** The entry of the directory, made if it is missing; noEntry when something else has taken its place meanwhile. */
  make(place: Place): number {
    const tree = this.#tree;
    if (place.entry !== noEntry || !("parent" in place)) return tree.isDirectory(place.entry) ? place.entry : noEntry;
    const parent = this.make(place.parent);
    if (parent === noEntry) return noEntry;
    const at = tree.place(parent, place.name);
    if (!tree.isDirectory(at)) tree.link(at, this.#addDirectory(parent));
    place.entry = at;
    return at;
  }

  /** The directory that a path's bytes [0, end) lead to; undefined when something on the way is neither directory nor missing. */
  walk(path: Uint8Array, end: number): Place | undefined {
    return this.#walk(this.root, path, end, { hops: 0 });
  }

  /** The inode a path names, the last component not followed; -1 when there is none. */
  inodeAt(path: Uint8Array): number {
    const nameAt = path.lastIndexOf(slash) + 1;
    const directory = this.walk(path, nameAt)?.entry ?? noEntry;
    return directory === noEntry ? -1 : this.#tree.inode(this.#tree.find(directory, path, nameAt));
  }

  #walk(from: Place, path: Uint8Array, end: number, state: { hops: number }): Place | undefined {
    let at: Place | undefined = path[0] === slash ? this.root : from;
    for (let start = 0; start < end && at !== undefined; ) {
      let stop = start;
      while (stop < end && path[stop] !== slash) stop++;
      const size = stop - start;
      if (size === 2 && path[start] === dot && path[start + 1] === dot) at = this.#above(at);
      else if (size > 1 || (size === 1 && path[start] !== dot)) at = this.#step(at, path.slice(start, stop), state);
      start = stop + 1;
    }
    return at;
  }

  #above(place: Place): Place {
    return place.entry === noEntry && "parent" in place ? place.parent : { entry: this.#tree.parent(place.entry) };
  }

  #step(directory: Place, name: Uint8Array, state: { hops: number }): Place | undefined {
    const tree = this.#tree;
    const found = directory.entry === noEntry ? noEntry : tree.find(directory.entry, name);
    if (found === noEntry) return { entry: noEntry, parent: directory, name };
    if (tree.isDirectory(found)) return { entry: found };
    const inode = tree.inode(found);
    state.hops++;
    if ((tree.inodes.mode(inode) & fileTypeMask) !== fileType.symlink.mode || state.hops > maximumHops)
      return undefined;
    // A copy: making directories may move the bytes a view looks at.
    const target = tree.inodes.target(inode).slice();
    return this.#walk(directory, target, target.length, state);
  }

  /** What containerd, Podman and umoci make of a directory that no layer describes, with the time of the directory it is in. */
  #addDirectory(parent: number): number {
    const { inodes } = this.#tree;
    const above = this.#tree.inode(parent);
    return inodes.add(
      {
        permissions: 0o755,
        uid: 0,
        gid: 0,
        mtimeSeconds: inodes.mtimeSeconds(above),
        mtimeNanoseconds: inodes.mtimeNanoseconds(above),
        xattrs: noXattrs,
      },
      { kind: "directory" },
    );
  }
}
