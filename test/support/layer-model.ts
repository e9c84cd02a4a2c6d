import { createHash } from "node:crypto";
import type { TarItem } from "./tar-builder.js";
import type { ListedEntry } from "./tree-listing.js";

/** An inode; names of the same inode share the object. */
interface Node {
  readonly type: string;
  mode: number;
  uid: number;
  mtime: number;
  xattrs: Record<string, string>;
  readonly data?: string;
  readonly target?: string;
  readonly children: Map<string, Node>;
}

/**
 * What unpacking the tars of an image one after another gives, done the simple way: entries in the order of the tar, in memory, each
 * applied to what is there by then. Paths are ASCII.
 */
export class LayerModel {
  readonly #root: Node = { type: "directory", mode: 0o755, uid: 0, mtime: 0, xattrs: {}, children: new Map() };
  /** Resolved paths that the layer at hand has put something at, with the directories above. */
  #upper = new Set<string>();

  beginLayer(): void {
    this.#upper = new Set();
  }

  apply(item: TarItem): void {
    const path = String(item.path)
      .replace(/^\.?\//, "")
      .replace(/\/$/, "");
    if (path === "") {
      this.#describe(this.#root, item);
      return;
    }
    const slash = path.lastIndexOf("/");
    const directory = this.resolve(path.slice(0, Math.max(0, slash)));
    const name = path.slice(slash + 1);
    if (name.startsWith(".wh.")) this.#whiteOut(directory, name);
    else this.#put(directory, name, item);
  }

  /** What is at a resolved path. */
  at(path: readonly string[]): { readonly type: string } | undefined {
    return this.#at(path);
  }

  /** A path's components with symbolic links followed, the last one too; they need not exist. */
  resolve(path: string): string[] {
    const todo = path.split("/");
    let done: string[] = [];
    for (let hops = 0, name = todo.shift(); name !== undefined; name = todo.shift()) {
      if (name === "" || name === ".") continue;
      if (name === "..") {
        done.pop();
        continue;
      }
      const node = this.#at([...done, name]);
      if (node?.target === undefined) {
        done.push(name);
        continue;
      }
      hops++;
      if (hops > 100) throw new Error(`loop at ${path}`);
      if (node.target.startsWith("/")) done = [];
      todo.unshift(...node.target.split("/"));
    }
    return done;
  }

  list(): ListedEntry[] {
    const names = new Map<Node, number>();
    const all: [string, Node][] = [["/", this.#root]];
    for (let i = 0; i < all.length; i++) {
      const [path, node] = all[i] ?? ["", this.#root];
      names.set(node, (names.get(node) ?? 0) + 1);
      for (const [name, child] of node.children) all.push([`${path === "/" ? "" : path}/${name}`, child]);
    }
    return all
      .map(([path, node]) => {
        const { type, mode, uid, mtime, xattrs, data, target } = node;
        const content = {
          nlink: names.get(node) ?? 0,
          size: data?.length ?? 0,
          sha256: createHash("sha256")
            .update(data ?? "")
            .digest("hex"),
        };
        return {
          path,
          type,
          mode,
          uid,
          gid: 0,
          mtimeNs: `${mtime * 1e9}`,
          xattrs,
          ...(type === "file" ? content : {}),
          ...(target === undefined ? {} : { target }),
        };
      })
      .sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  #at(path: readonly string[]): Node | undefined {
    let node: Node | undefined = this.#root;
    for (const name of path) node = node?.children.get(name);
    return node;
  }

  #put(directory: readonly string[], name: string, item: TarItem): void {
    const source = item.type === "hardlink" ? this.#linkTarget(String(item.linkPath)) : undefined;
    const parent = this.#makeDirectory(directory);
    const old = parent.children.get(name);
    const type = item.type ?? "file";
    if (type === "directory" && old?.type === "directory") {
      this.#describe(old, item);
    } else {
      const node = source ?? {
        type,
        mode: 0,
        uid: 0,
        mtime: 0,
        xattrs: {},
        children: new Map<string, Node>(),
        ...(type === "symlink" ? { target: String(item.linkPath) } : {}),
        ...(type === "file" ? { data: String(item.data ?? "") } : {}),
      };
      if (source === undefined) this.#describe(node, item);
      parent.children.set(name, node);
    }
    const path = [...directory, name];
    for (let length = 1; length <= path.length; length++) this.#upper.add(path.slice(0, length).join("/"));
  }

  #linkTarget(path: string): Node {
    const slash = path.lastIndexOf("/");
    const node = this.#at([...this.resolve(path.slice(0, Math.max(0, slash))), path.slice(slash + 1)]);
    if (node === undefined) throw new Error(`no hard link target ${path}`);
    return node;
  }

  #makeDirectory(path: readonly string[]): Node {
    let node = this.#root;
    for (const name of path) {
      let child = node.children.get(name);
      if (child === undefined) {
        child = { type: "directory", mode: 0o755, uid: 0, mtime: node.mtime, xattrs: {}, children: new Map() };
        node.children.set(name, child);
      }
      if (child.type !== "directory") throw new Error(`${path.join("/")}: ${name} is a ${child.type}`);
      node = child;
    }
    return node;
  }

  #whiteOut(directory: readonly string[], name: string): void {
    if (name === ".wh..wh..opq") {
      for (const child of [...(this.#at(directory)?.children.keys() ?? [])]) this.#remove([...directory, child]);
    } else {
      this.#remove([...directory, name.slice(".wh.".length)]);
    }
  }

  /** All but what the layer at hand has put there. */
  #remove(path: readonly string[]): void {
    const node = this.#at(path);
    if (node === undefined) return;
    if (!this.#upper.has(path.join("/"))) {
      this.#at(path.slice(0, -1))?.children.delete(path.at(-1) ?? "");
      return;
    }
    for (const child of [...node.children.keys()]) this.#remove([...path, child]);
  }

  #describe(node: Node, item: TarItem): void {
    node.mode = item.mode ?? (item.type === "directory" ? 0o755 : 0o644);
    node.uid = item.uid ?? 0;
    node.mtime = item.mtime ?? 0;
    node.xattrs = Object.fromEntries(Object.entries(item.xattrs ?? {}).map(([name, value]) => [name, String(value)]));
  }
}
