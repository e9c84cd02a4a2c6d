import { realpath } from "node:fs/promises";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { mountsBelow, processesRootedOn } from "../base/mount-table.js";
import { unmount } from "../native/mount.js";
import { type BundlePaths, bundlePaths, removeBundleFiles, requireBundle } from "./bundle-directory.js";

/**
 * Unmounts a bundle and removes it, what containers wrote in it included. Returns the names of files in it that are not ours, which
 * stay. Throws `busy`, and has changed nothing, while a container runs in it; `usage` when it is no bundle.
 */
export async function removeBundle(directory: string): Promise<readonly string[]> {
  const paths = bundlePaths(await realDirectory(directory));
  const marker = await requireBundle(paths);
  await refuseWhileUsed(paths);
  await unmountBundle(paths);
  return await removeBundleFiles(paths, marker);
}

async function realDirectory(directory: string): Promise<string> {
  try {
    return await realpath(directory);
  } catch (cause) {
    throw new OcifsError("usage", `bundle ${directory}: ${messageOf(cause)}`, { cause });
  }
}

/** A container has a copy of the mount in a namespace of its own, so that unmounting ours would go through. */
async function refuseWhileUsed(paths: BundlePaths): Promise<void> {
  const devices = new Set((await mountsBelow(paths.directory)).map(({ device }) => device));
  if (devices.size === 0) return;
  const pids = await processesRootedOn(devices);
  if (pids.length > 0) {
    const named = `${pids.slice(0, 5).join(", ")}${pids.length > 5 ? ", …" : ""}`;
    throw new OcifsError(
      "busy",
      `bundle ${paths.directory}: a container runs in it (process ${named}); stop and delete it first`,
    );
  }
}

/** Unmounts what is mounted in a bundle, topmost first. */
export async function unmountBundle(paths: BundlePaths): Promise<void> {
  for (const { path } of await mountsBelow(paths.directory)) {
    try {
      await unmount(path, false);
    } catch (error) {
      if (!isOcifsError(error, "busy")) throw error;
      throw new OcifsError("busy", `bundle ${paths.directory}: ${path} is in use; close what is open in it`, {
        cause: error,
      });
    }
  }
}
