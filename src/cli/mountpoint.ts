import { realpath, stat, statfs } from "node:fs/promises";
import { messageOf, OcifsError } from "../base/errors.js";

/** The directory's real path: unmounting does not follow links, and /proc/mounts shows none. */
export async function findMountpoint(path: string): Promise<string> {
  try {
    const info = await stat(path);
    if (!info.isDirectory()) throw new OcifsError("usage", `mountpoint ${path}: it is not a directory`);
    // The kernel still knows the root's attributes when a mount's daemon is dead, but this it has to ask.
    await statfs(path);
    return await realpath(path);
  } catch (cause) {
    if (cause instanceof OcifsError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new OcifsError("usage", `mountpoint ${path}: it does not exist; make it with mkdir`);
    if (code === "ENOTCONN") {
      throw new OcifsError("busy", `mountpoint ${path}: a mount is there whose daemon has died; unmount it first`);
    }
    throw new OcifsError("io", `mountpoint ${path}: ${messageOf(cause)}`, { cause });
  }
}
