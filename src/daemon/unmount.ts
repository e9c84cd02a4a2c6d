import { realpath } from "node:fs/promises";
import { resolve } from "node:path";
import { systemErrnoOf } from "../base/errno.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { readMountTable } from "../base/mount-table.js";
import { unmountThroughFusermount } from "../drivers/mountpoint.js";
import { unmount } from "../native/mount.js";
import { callAllDaemons } from "./control.js";
import { runtimeDirectory } from "./runtime-directory.js";
import type { DaemonStatus } from "./status.js";

/**
 * Unmounts what ocifs has mounted at a path; its daemon then ends by itself. `not-found` when nothing is mounted there or
 * something else is, `busy` when it is in use and `lazy` is not asked for.
 */
export async function unmountOcifs(mountpoint: string, lazy: boolean): Promise<void> {
  const mounts = await readMountTable("self");
  const at = (wanted: string) => mounts.findLast(({ path }) => path === wanted);
  // By its name first: a mount whose daemon is dead answers no question about its path.
  const found = at(resolve(mountpoint)) ?? at(await realpath(mountpoint).catch(() => mountpoint));
  if (!found || !(await isOurs(found.type, found.path))) {
    throw new OcifsError("not-found", `umount ${mountpoint}: no mount of ocifs is there`);
  }
  if (process.geteuid?.() !== 0) {
    const said = await unmountThroughFusermount(found.path, lazy);
    if (said === undefined) return;
    throw new OcifsError(/busy/i.test(said) ? "busy" : "io", `umount ${found.path}: ${said}`);
  }
  try {
    await unmount(found.path, lazy);
  } catch (cause) {
    throw new OcifsError(systemErrnoOf(cause) === 16 ? "busy" : "io", `umount ${found.path}: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/** Anybody may mount an EROFS image; ours are those that a daemon of ours tells of. */
async function isOurs(type: string, path: string): Promise<boolean> {
  if (type === "fuse.ocifs") return true;
  if (type !== "erofs") return false;
  const { answers } = await callAllDaemons(runtimeDirectory(), "status");
  return (answers as DaemonStatus[]).some(({ mounts }) => mounts.some(({ mountpoint }) => mountpoint === path));
}
