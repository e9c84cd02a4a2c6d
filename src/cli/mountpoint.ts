import { openSync } from "node:fs";
import { readlink } from "node:fs/promises";
import { systemErrnoOf } from "../base/errno.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { ownMountNamespace } from "../base/mount-namespace.js";
import type { MountNamespace } from "../drivers/driver.js";
import { findDirectory, unmount } from "../native/mount.js";

const ENOENT = 2;
const ENOTDIR = 20;
const ENOTCONN = 107;

/**
 * The namespace of `-N`: a process' number, or a path, of which mount(8) gives one below /proc. It is held open for as long as this process
 * lives. Undefined when it is this process' own.
 */
export async function openMountNamespace(text: string): Promise<MountNamespace | undefined> {
  let path: string;
  try {
    const fd = openSync(/^\d+$/.test(text) ? `/proc/${text}/ns/mnt` : text, "r");
    path = `/proc/${process.pid}/fd/${fd}`;
  } catch (cause) {
    throw new OcifsError("usage", `-N ${text}: ${messageOf(cause)}`, { cause });
  }
  const id = await readlink(path);
  if (!id.startsWith("mnt:[")) throw new OcifsError("usage", `-N ${text}: it is no mount namespace`);
  return id === (await ownMountNamespace()) ? undefined : { id, path };
}

/**
 * The mountpoint's real path: unmounting does not follow links, and /proc/mounts shows none. With `replaceDead` a mount that nobody serves
 * any more is taken away; otherwise it is `busy`.
 */
export async function findMountpoint(
  path: string,
  { namespace, replaceDead = false }: { readonly namespace?: MountNamespace; readonly replaceDead?: boolean } = {},
): Promise<string> {
  try {
    return await findDirectory(path, namespace?.path);
  } catch (cause) {
    const errno = systemErrnoOf(cause);
    if (errno === ENOENT) {
      throw new OcifsError("usage", `mountpoint ${path}: it does not exist; make it with mkdir`, { cause });
    }
    if (errno === ENOTDIR) throw new OcifsError("usage", `mountpoint ${path}: it is not a directory`, { cause });
    if (errno === ENOTCONN && replaceDead) {
      await unmount(path, true, namespace ? { namespace: namespace.path } : {});
      return await findMountpoint(path, namespace ? { namespace } : {});
    }
    if (errno === ENOTCONN) {
      const message = `mountpoint ${path}: a mount is there whose daemon has died; unmount it first`;
      throw new OcifsError("busy", message, { cause });
    }
    throw new OcifsError("io", `mountpoint ${messageOf(cause)}`, { cause });
  }
}
