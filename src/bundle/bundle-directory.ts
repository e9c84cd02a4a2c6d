import { mkdir, readdir, readFile, rm, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { pathExists } from "../base/path-exists.js";

/** What lies in a bundle, beside `config.json`. */
export interface BundlePaths {
  readonly directory: string;
  readonly config: string;
  /** Says that the directory is ours to remove; it is the first thing written. */
  readonly marker: string;
  /** The root file system: the lazy mount, or an overlay on it. */
  readonly rootfs: string;
  /** The lazy mount under an overlay. */
  readonly image: string;
  readonly upper: string;
  readonly work: string;
  readonly volumes: string;
}

/** Relative to the bundle, as the runtime resolves it. */
export const volumePath = (number: number): string => `volumes/${number}`;

export function bundlePaths(directory: string): BundlePaths {
  const at = (name: string) => join(directory, name);
  return {
    directory,
    config: at("config.json"),
    marker: at(".ocifs-bundle.json"),
    rootfs: at("rootfs"),
    image: at("image"),
    upper: at("upper"),
    work: at("work"),
    volumes: at("volumes"),
  };
}

interface Marker {
  readonly version: 1;
  /** The directory was made by us, and goes with the bundle. */
  readonly madeDirectory: boolean;
}

/** Takes an empty or new directory for a bundle. Throws `usage` when something is in it. */
export async function claimDirectory(paths: BundlePaths): Promise<void> {
  const { directory } = paths;
  let madeDirectory = false;
  try {
    madeDirectory =
      (await mkdir(directory, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST") throw error;
        return "there";
      })) === undefined;
    const [first] = await readdir(directory);
    if (first !== undefined) {
      throw new OcifsError(
        "usage",
        `bundle ${directory}: it is not empty (${JSON.stringify(first)}); name a new directory`,
      );
    }
    const marker: Marker = { version: 1, madeDirectory };
    // Exclusively: of two that want the same directory one gets it.
    await writeFile(paths.marker, `${JSON.stringify(marker)}\n`, { flag: "wx", mode: 0o600 });
  } catch (cause) {
    if (cause instanceof OcifsError) throw cause;
    if (madeDirectory) await rmdir(directory);
    throw new OcifsError("io", `bundle ${directory}: ${messageOf(cause)}`, { cause });
  }
}

/** Throws `usage` unless the directory is a bundle of ours. */
export async function requireBundle(paths: BundlePaths): Promise<Marker> {
  if (!(await pathExists(paths.marker))) {
    throw new OcifsError("usage", `${paths.directory}: it is no bundle made by ocifs bundle`);
  }
  try {
    const { version, madeDirectory } = JSON.parse(await readFile(paths.marker, "utf8")) as Partial<Marker>;
    if (version === 1 && typeof madeDirectory === "boolean") return { version, madeDirectory };
  } catch (cause) {
    throw new OcifsError("corrupt", `bundle ${paths.directory}: cannot read ${paths.marker}: ${messageOf(cause)}`, {
      cause,
    });
  }
  throw new OcifsError("unsupported", `bundle ${paths.directory}: made by another version of ocifs`);
}

/**
 * Removes what a bundle consists of; nothing may be mounted in it any more. Files that are not ours stay, and the directory
 * with them: returns their names.
 */
export async function removeBundleFiles(paths: BundlePaths, { madeDirectory }: Marker): Promise<readonly string[]> {
  // Mountpoints are empty now; should they not be, nothing is deleted in them.
  for (const mountpoint of [paths.rootfs, paths.image]) {
    await rmdir(mountpoint).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
  }
  for (const path of [paths.upper, paths.work, paths.volumes, paths.config, `${paths.config}.new`]) {
    await rm(path, { recursive: true, force: true });
  }
  // Last, so that what failed can be tried again.
  await rm(paths.marker);
  const left = await readdir(paths.directory);
  if (left.length === 0 && madeDirectory) await rmdir(paths.directory);
  return left;
}
