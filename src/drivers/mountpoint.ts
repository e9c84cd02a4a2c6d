import { spawn } from "node:child_process";
import { systemErrnoOf } from "../base/errno.js";
import { OcifsError } from "../base/errors.js";
import { namespacePath } from "../base/mount-namespace.js";
import { readMountTable } from "../base/mount-table.js";
import { unmount } from "../native/mount.js";

/** Unmounts, lazily when the mount is busy. A mount that is gone already is what was wanted. */
export async function detach(mountpoint: string, privileged: boolean): Promise<void> {
  if (!privileged) {
    const said = await unmountThroughFusermount(mountpoint, true);
    if (said === undefined || /not found|not mounted/i.test(said)) return;
    throw new OcifsError("io", `fusermount3 could not unmount ${mountpoint}: ${said}`);
  }
  await unmountOrDetach(mountpoint);
}

/** A mount as its driver knows it. */
export interface MountPlace {
  readonly mountpoint: string;
  /** "major:minor"; undefined when it has never answered. */
  readonly device: string | undefined;
  /** The mount namespace it is in, if that is not this process' own; see base/mount-namespace.ts. */
  readonly namespace: string | undefined;
}

/** The same, unless something covers the mount or took its place after umount -l: that is not ours to remove. */
export async function detachFrom(place: MountPlace, privileged: boolean): Promise<void> {
  const { mountpoint, device, namespace } = place;
  if (namespace === undefined) {
    if (device === undefined || (await deviceAt(mountpoint)) === device) await detach(mountpoint, privileged);
    return;
  }
  // A namespace in which no process is left is gone, and its mounts with it.
  const path = await namespacePath(namespace);
  if (path !== undefined)
    await unmountOrDetach(mountpoint, { ...(device === undefined ? {} : { device }), namespace: path });
}

async function unmountOrDetach(
  mountpoint: string,
  only: { readonly device?: string; readonly namespace?: string } = {},
): Promise<void> {
  try {
    await unmount(mountpoint, false, only);
  } catch (error) {
    const errno = systemErrnoOf(error);
    // EINVAL: no mountpoint any more. ENOENT: nor a directory.
    if (errno === 22 || errno === 2) return;
    await unmount(mountpoint, true, only);
  }
}

/** What an ordinary user unmounts with. Undefined when it worked, otherwise what was said. */
export function unmountThroughFusermount(mountpoint: string, lazy: boolean): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const args = ["-u", ...(lazy ? ["-z"] : []), "--", mountpoint];
    const child = spawn("fusermount3", args, { stdio: ["ignore", "ignore", "pipe"] });
    const stderr: Buffer[] = [];
    child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
    child.once("error", reject);
    child.once("close", (code) => {
      resolve(code === 0 ? undefined : Buffer.concat(stderr).toString().trim() || `exit code ${code}`);
    });
  });
}

/** "major:minor" as /proc and /sys write it. */
export function deviceName(dev: number): string {
  const major = (dev >> 8) & 0xfff;
  const minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);
  return `${major}:${minor}`;
}

/** The device of the topmost mount at a path, undefined when none is there. Asks no file system, which might not answer. */
async function deviceAt(mountpoint: string): Promise<string | undefined> {
  return (await readMountTable("self")).findLast(({ path }) => path === mountpoint)?.device;
}
