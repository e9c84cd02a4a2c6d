import { readdir, readFile } from "node:fs/promises";

/** One line of /proc/PID/mountinfo (proc(5)). */
export interface MountEntry {
  /** major:minor. */
  readonly device: string;
  readonly path: string;
  /** File system type, with its subtype. */
  readonly type: string;
}

/** The mounts that a process sees, paths relative to its root, oldest first. Asks no file system, which might not answer. */
export async function readMountTable(pid: number | "self"): Promise<MountEntry[]> {
  return (await readFile(`/proc/${pid}/mountinfo`, "utf8"))
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const fields = line.split(" ");
      const path = (fields[4] ?? "").replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
        String.fromCharCode(Number.parseInt(octal, 8)),
      );
      // The kernel writes bytes, which were read as UTF-8; only ASCII characters are written in octal.
      // Behind a separator, since the number of fields before it varies.
      return { device: fields[2] ?? "", path, type: fields[fields.indexOf("-") + 1] ?? "" };
    });
}

/** Mountpoints at and below a directory, in the order in which they can be unmounted. */
export async function mountsBelow(directory: string): Promise<MountEntry[]> {
  const mounts = await readMountTable("self");
  return mounts.filter(({ path }) => path === directory || path.startsWith(`${directory}/`)).reverse();
}

/** Processes whose root is one of these devices: those of containers. */
export async function processesRootedOn(devices: ReadonlySet<string>): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const mounts = await readMountTable(Number(name)).catch((error: NodeJS.ErrnoException) => {
      // It has ended, or is a zombie, which has no mounts.
      if (error.code === "ENOENT" || error.code === "ESRCH" || error.code === "EINVAL") return [];
      throw error;
    });
    const root = mounts.findLast(({ path }) => path === "/");
    if (root !== undefined && devices.has(root.device)) found.push(Number(name));
  }
  return found;
}
