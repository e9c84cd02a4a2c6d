import { lstat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { namesIn } from "./cached-blobs.js";

/** What the files of a cache are for. */
export const usageKinds = ["compressed", "data", "indexes", "images", "other"] as const;
export type UsageKind = (typeof usageKinds)[number];

export interface Usage {
  /** Sum of the files' sizes; holes count. */
  readonly apparentBytes: number;
  /** On disk, as du(1) counts. */
  readonly allocatedBytes: number;
  readonly files: number;
}

/** Adds up a cache directory by kind; directories and small files of blobs are `other`. What vanishes meanwhile does not count. */
export async function measureCache(cachePath: string): Promise<Record<UsageKind, Usage>> {
  const sums = Object.fromEntries(
    usageKinds.map((kind) => [kind, { apparentBytes: 0, allocatedBytes: 0, files: 0 }]),
  ) as Record<UsageKind, { apparentBytes: number; allocatedBytes: number; files: number }>;
  const todo: string[] = [""];
  for (let path = todo.pop(); path !== undefined; path = todo.pop()) {
    const info = await lstatIfThere(join(cachePath, path));
    if (!info) continue;
    const sum = sums[info.isDirectory() ? "other" : kindOf(path)];
    sum.allocatedBytes += info.blocks * 512;
    if (info.isDirectory()) {
      for (const name of await namesIn(join(cachePath, path))) todo.push(join(path, name));
    } else {
      sum.apparentBytes += info.size;
      sum.files += 1;
    }
  }
  return sums;
}

function kindOf(path: string): UsageKind {
  const parts = path.split("/");
  const [top, name = ""] = [parts[0], parts.at(-1)];
  if (top === "indexes") return "indexes";
  if (top === "images" || top === "refs") return "images";
  if (top !== "blobs" || name.endsWith(".verified")) return "other";
  if (name === "compressed") return "compressed";
  return name.startsWith("data-") ? "data" : "other";
}

async function lstatIfThere(path: string) {
  try {
    return await lstat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new OcifsError("io", `stat ${path}: ${messageOf(error)}`, { cause: error });
  }
}
