import { access } from "node:fs/promises";
import { OcifsError } from "../base/errors.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import type { Digest } from "../oci/digest.js";
import { indexPathsIn } from "./files.js";

export interface IndexLocation {
  readonly tarindexPath: string;
  readonly zinfoPath?: string;
  readonly jsonPath?: string;
}

/** The index whose files were named, with the JSON beside the tarindex if there is one. */
export async function namedIndex(named: {
  readonly tarindex: string;
  readonly zinfo?: string;
}): Promise<IndexLocation> {
  const jsonPath = `${named.tarindex.replace(/\.tarindex$/, "")}.json`;
  return {
    tarindexPath: named.tarindex,
    ...(named.zinfo === undefined ? {} : { zinfoPath: named.zinfo }),
    ...((await exists(jsonPath)) ? { jsonPath } : {}),
  };
}

/** The index that `ocifs index create` or an earlier mount put into the cache, or undefined. */
export async function cachedIndex(cache: CacheDirectory, blob: Digest): Promise<IndexLocation | undefined> {
  const paths = indexPathsIn(cache.indexPath(blob), blob);
  if (!(await exists(paths.jsonPath))) return undefined;
  const { zinfoPath, ...others } = paths;
  return (await exists(zinfoPath)) ? paths : others;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw new OcifsError("io", `index ${path}: ${(error as Error).message}`, { cause: error });
  }
}
