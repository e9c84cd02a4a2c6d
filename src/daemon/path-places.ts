import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import type { MountConfig } from "./mount-config.js";

/** A file that a mount's configuration names, and what a process finds there. */
export interface PathPlace {
  readonly path: string;
  readonly device: number;
  readonly inode: number;
}

/** Where the paths of a configuration lead to for this process; of a path that is not there, the nearest directory above it that is. */
export async function placesOf({ source, tarindex, zinfo, cacheDir }: MountConfig): Promise<PathPlace[]> {
  const local = /^(?:oci|file):(\/[^:]*)/.exec(source)?.[1];
  const paths = [local, tarindex, zinfo, cacheDir].filter((path) => path !== undefined);
  return await Promise.all(paths.map(placeOf));
}

/** The first of them that leads elsewhere for this process, as processes in another mount namespace may find. */
export async function findMisplaced(places: readonly PathPlace[]): Promise<string | undefined> {
  for (const { path, device, inode } of places) {
    const here = await placeOf(path);
    if (here.device !== device || here.inode !== inode || here.path !== path) return path;
  }
  return undefined;
}

async function placeOf(path: string): Promise<PathPlace> {
  try {
    const { dev, ino } = await stat(path);
    return { path, device: dev, inode: ino };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || path === "/") throw error;
    return await placeOf(dirname(path));
  }
}
