import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { OcifsError } from "../base/errors.js";
import { unmount } from "../native/fuse.js";

/** Unmounts, lazily when the mount is busy. A mount that is gone already is what was wanted. */
export async function detach(mountpoint: string, privileged: boolean): Promise<void> {
  if (!privileged) {
    const said = await unmountThroughFusermount(mountpoint, true);
    if (said === undefined || /not found|not mounted/i.test(said)) return;
    throw new OcifsError("io", `fusermount3 could not unmount ${mountpoint}: ${said}`);
  }
  try {
    await unmount(mountpoint, false);
  } catch (error) {
    const errno = error instanceof OcifsError ? (error.cause as { errno?: number } | undefined)?.errno : undefined;
    if (errno === 22) return; // EINVAL: no mountpoint any more
    await unmount(mountpoint, true);
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
export async function deviceAt(mountpoint: string): Promise<string | undefined> {
  const path = mountpoint.replaceAll(/[ \t\n\\]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, "0")}`);
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").map((line) => line.split(" "));
  return mounts.findLast((fields) => fields[4] === path)?.[2];
}
