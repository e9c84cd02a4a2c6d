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

/**
 * Where a layer's index is: the files that were named (with the JSON beside the tarindex, if there is one), else those that
 * `ocifs index create` put into the cache. `not-found` says how to make one.
 */
export async function locateIndex(
  named: { readonly tarindex?: string; readonly zinfo?: string },
  cache: CacheDirectory,
  blob: Digest,
): Promise<IndexLocation> {
  if (named.tarindex !== undefined) {
    const jsonPath = `${named.tarindex.replace(/\.tarindex$/, "")}.json`;
    return {
      tarindexPath: named.tarindex,
      ...(named.zinfo === undefined ? {} : { zinfoPath: named.zinfo }),
      ...((await exists(jsonPath)) ? { jsonPath } : {}),
    };
  }
  const paths = indexPathsIn(cache.indexPath(blob), blob);
  if (!(await exists(paths.jsonPath))) {
    throw new OcifsError(
      "not-found",
      `layer ${blob}: there is no index of it; make one with "ocifs index create IMAGE", or name the files with oci.tarindex= and oci.zinfo=`,
    );
  }
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
