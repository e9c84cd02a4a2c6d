import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { ErofsAttr } from "../native/erofs.js";
import { type ErofsTree, fileTypeMask, fileTypes, joinPath } from "./reader.js";

export interface ResolvedPath {
  readonly nid: number;
  readonly attr: ErofsAttr;
  /** Absolute, without symbolic links, "." or ".." (the last component may be a link when it was not followed). */
  readonly path: Uint8Array;
}

/** Symbolic links followed in one resolution, as Linux. */
const linkLimit = 40;
const slash = 0x2f;

/** For messages only: any bytes, printable. */
function quote(path: Uint8Array): string {
  return JSON.stringify(Buffer.from(path).toString("latin1"));
}

/** The components of a path, last first, so that pop() takes the next one. Empty ones are gone. */
function componentsOf(path: Uint8Array): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let end = path.length; end > 0; ) {
    const start = path.lastIndexOf(slash, end - 1) + 1;
    if (start < end) parts.push(path.subarray(start, end));
    end = start - 1;
  }
  return parts;
}

function isName(name: Uint8Array, text: "." | ".."): boolean {
  return name.length === text.length && name.every((byte) => byte === 0x2e);
}

/**
 * Resolves a path inside the image as the kernel would with the image's root as "/": a relative path starts there, ".."
 * at the root stays there, symbolic links are followed (the last one only with `followLast`, the default, or when a slash
 * comes after it). Throws `not-found` (no such entry, or not a directory), `limit` for more than 40 links or an overlong
 * path, `usage` for an empty path.
 */
export function resolvePath(
  tree: ErofsTree,
  path: Uint8Array,
  { followLast = true }: { readonly followLast?: boolean } = {},
): ResolvedPath {
  if (path.length === 0) throw new OcifsError("usage", "path is empty; want a path inside the image, such as /etc");
  if (path.length > limits.pathBytes) {
    throw new OcifsError("limit", `path of ${path.length} bytes; Linux allows ${limits.pathBytes}`);
  }
  const root: ResolvedPath = {
    nid: tree.info.rootNid,
    attr: tree.stat(tree.info.rootNid),
    path: Uint8Array.of(slash),
  };
  let trail = [root];
  let mustBeDirectory = path.at(-1) === slash;
  const todo = componentsOf(path);

  for (let links = 0, name = todo.pop(); name !== undefined; name = todo.pop()) {
    const here = trail.at(-1) ?? root;
    requireDirectory(here, path);
    if (isName(name, ".")) continue;
    if (isName(name, "..")) {
      if (trail.length > 1) trail.pop();
      continue;
    }
    const found = name.length > limits.nameBytes ? null : tree.lookup(here.nid, name);
    const full = joinPath(here.path, name);
    if (found === null) throw new OcifsError("not-found", `${quote(path)}: no entry ${quote(full)} in the image`);
    const attr = tree.stat(found.nid);
    const isLink = (attr.mode & fileTypeMask) === fileTypes.symlink;
    if (!isLink || (todo.length === 0 && !followLast && !mustBeDirectory)) {
      trail.push({ nid: found.nid, attr, path: full });
      continue;
    }
    links++;
    if (links > linkLimit) {
      throw new OcifsError("limit", `${quote(path)}: more than ${linkLimit} symbolic links; there is probably a loop`);
    }
    const target = tree.readlink(found.nid);
    if (target[0] === slash) trail = [root];
    if (todo.length === 0 && target.at(-1) === slash) mustBeDirectory = true;
    todo.push(...componentsOf(target));
  }
  const last = trail.at(-1) ?? root;
  if (mustBeDirectory) requireDirectory(last, path);
  return last;
}

function requireDirectory(at: ResolvedPath, path: Uint8Array): void {
  if ((at.attr.mode & fileTypeMask) !== fileTypes.directory) {
    throw new OcifsError("not-found", `${quote(path)}: ${quote(at.path)} is no directory`);
  }
}
