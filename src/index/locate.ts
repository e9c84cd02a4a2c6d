import { pathExists } from "../base/path-exists.js";
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
    ...((await pathExists(jsonPath)) ? { jsonPath } : {}),
  };
}

/** The index that `ocifs index create` or an earlier mount put into the cache, or undefined. */
export async function cachedIndex(cache: CacheDirectory, blob: Digest): Promise<IndexLocation | undefined> {
  const paths = indexPathsIn(cache.indexPath(blob), blob);
  if (!(await pathExists(paths.jsonPath))) return undefined;
  const { zinfoPath, ...others } = paths;
  return (await pathExists(zinfoPath)) ? paths : others;
}
