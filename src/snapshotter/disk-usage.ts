import { lstat, readdir } from "node:fs/promises";
import type { SnapshotUsage } from "./snapshot-record.js";

/** What a directory and all below it take up on disk, as du(1) counts: a file with several names once. */
export async function diskUsage(root: string): Promise<SnapshotUsage> {
  let bytes = 0;
  let inodes = 0;
  const linked = new Set<string>();
  // Names are bytes: one that is no UTF-8 must be found again.
  const pending: Buffer[] = [Buffer.from(root)];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    const info = await lstat(path).catch(ignoreGone);
    if (info === undefined) continue;
    if (info.nlink > 1 && !info.isDirectory()) {
      const key = `${info.dev}:${info.ino}`;
      if (linked.has(key)) continue;
      linked.add(key);
    }
    bytes += info.blocks * 512;
    inodes++;
    if (!info.isDirectory()) continue;
    const names = await namesBelow(path);
    for (const name of names) pending.push(Buffer.concat([path, Buffer.from("/"), name]));
  }
  return { bytes, inodes };
}

async function namesBelow(path: Buffer): Promise<Buffer[]> {
  return (await readdir(path, { encoding: "buffer" }).catch(ignoreGone)) ?? [];
}

/** A container goes on working, and removes files, while it is measured. */
function ignoreGone(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
  return undefined;
}
