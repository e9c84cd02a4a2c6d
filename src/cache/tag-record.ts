import { createHash } from "node:crypto";
import { join } from "node:path";
import { OcifsError } from "../base/errors.js";
import { formatPlatform, type Platform } from "../oci/platform.js";
import type { Reference } from "../oci/reference.js";

/** What a reference with a tag leads to may differ by platform, and so may the moment it was looked up. */
export interface TagKey {
  readonly registry: string;
  readonly repository: string;
  readonly tag: string;
  /** `os/architecture[/variant]`. */
  readonly platform: string;
}

export function tagKeyOf({ registry, repository, tag }: Reference, platform: Platform): TagKey {
  if (tag === undefined) throw new OcifsError("internal", `${registry}/${repository}: a reference without a tag`);
  return { registry, repository, tag, platform: formatPlatform(platform) };
}

/** Where a cache notes what the tag meant. A hash, because a reference may hold what file names may not, and be longer. */
export function tagRecordPath(cachePath: string, { registry, repository, tag, platform }: TagKey): string {
  const text = [registry, repository, tag, platform].join("\n");
  return join(cachePath, "refs", `${createHash("sha256").update(text).digest("hex")}.json`);
}
