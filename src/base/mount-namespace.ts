import { readdir, readlink } from "node:fs/promises";

/** Identifies a mount namespace for as long as it lives, as /proc/PID/ns/mnt reads: "mnt:[4026531841]". */
export function ownMountNamespace(): Promise<string> {
  return readlink("/proc/self/ns/mnt");
}

/** A path that leads to a namespace, through a process in it that may end at any time; undefined when there is none. */
export async function namespacePath(id: string): Promise<string | undefined> {
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const path = `/proc/${name}/ns/mnt`;
    const found = await readlink(path).catch((error: NodeJS.ErrnoException) => {
      // It has ended, or is none of ours.
      if (["ENOENT", "ESRCH", "EACCES", "EPERM"].includes(error.code ?? "")) return undefined;
      throw error;
    });
    if (found === id) return path;
  }
  return undefined;
}
