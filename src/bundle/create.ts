import { execFile } from "node:child_process";
import { chmod, chown, mkdir, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { isOcifsError, messageOf, OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { resolvePath } from "../erofs/path-walk.js";
import { ErofsTree, fileTypeMask, fileTypes } from "../erofs/reader.js";
import type { MountableImage } from "../image/mountable-image.js";
import {
  type BundlePaths,
  bundlePaths,
  claimDirectory,
  removeBundleFiles,
  requireBundle,
  volumePath,
} from "./bundle-directory.js";
import { convertToRuntimeConfig, type RuntimeConfig, systemMounts, volumesOf } from "./conversion.js";
import { unmountBundle } from "./remove.js";
import { parseRunSettings, type RunSettings } from "./run-settings.js";
import { resolveUser } from "./users.js";

export interface BundleChoices {
  readonly entrypoint?: readonly string[];
  readonly args: readonly string[];
  readonly readOnly: boolean;
  readonly terminal: boolean;
}

/** What is known of an image before anything is mounted. */
export interface PreparedBundle {
  readonly config: RuntimeConfig;
  readonly volumes: readonly VolumeDirectory[];
  readonly readOnly: boolean;
}

interface VolumeDirectory {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** Reads config, passwd and group of an open image and converts them. Mounts nothing. */
export async function prepareBundle(
  image: MountableImage,
  choices: BundleChoices,
  signal?: AbortSignal,
): Promise<PreparedBundle> {
  const found = await image.fetchConfig(signal);
  if (found === undefined) {
    throw new OcifsError("usage", "bundle: a single blob has no config to make a bundle of; name an image");
  }
  const settings = parseRunSettings(found.bytes, "image config");
  const tree = ErofsTree.of(image.tree);
  const [passwd, group] = [
    await readUserFile(tree, image, "/etc/passwd", signal),
    await readUserFile(tree, image, "/etc/group", signal),
  ];
  const user = resolveUser(settings.user, passwd, group);
  const config = convertToRuntimeConfig({ settings, user, ...choices, volumePath });
  if (choices.readOnly) requireMountpoints(tree, settings, config.process.cwd);
  const volumes = volumesOf(settings).map((path) => volumeDirectory(tree, path));
  return { config, volumes, readOnly: choices.readOnly };
}

/**
 * Makes the bundle in a new or empty directory (an absolute path without links). `mountImage` mounts the image at the path that
 * it is given. What fails, or is aborted, leaves nothing mounted and no files.
 */
export async function createBundle(
  directory: string,
  { config, volumes, readOnly }: PreparedBundle,
  mountImage: (mountpoint: string) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const paths = bundlePaths(directory);
  await claimDirectory(paths);
  try {
    await mkdir(paths.rootfs);
    if (readOnly) await mountImage(paths.rootfs);
    else {
      for (const path of [paths.image, paths.upper, paths.work]) await mkdir(path);
      await mountImage(paths.image);
      await copyAttributes(paths.image, paths.upper);
      await mountOverlay(paths);
    }
    throwIfAborted(signal, `bundle ${directory}`);
    await makeVolumes(paths, volumes);
    // Last and in one step: a bundle with a config is complete.
    await writeFile(`${paths.config}.new`, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o644 });
    await rename(`${paths.config}.new`, paths.config);
    throwIfAborted(signal, `bundle ${directory}`);
  } catch (error) {
    await unmountBundle(paths);
    await removeBundleFiles(paths, await requireBundle(paths));
    throw error instanceof OcifsError
      ? error
      : new OcifsError("io", `bundle ${directory}: ${messageOf(error)}`, { cause: error });
  }
}

/** The root of an overlay has owner and mode of its upper directory. */
async function copyAttributes(from: string, to: string): Promise<void> {
  const { mode, uid, gid } = await stat(from);
  await chown(to, uid, gid);
  await chmod(to, mode & 0o7777);
}

/** Paths relative to the bundle: overlayfs gives commas and colons in its options meanings of their own. */
async function mountOverlay(paths: BundlePaths): Promise<void> {
  const args = ["-t", "overlay", "-o", "lowerdir=image,upperdir=upper,workdir=work", "ocifs-bundle", "rootfs"];
  try {
    await promisify(execFile)("mount", args, { cwd: paths.directory });
  } catch (cause) {
    const said = (cause as { stderr?: string }).stderr?.trim().split("\n")[0] || messageOf(cause);
    throw new OcifsError(
      "io",
      `bundle ${paths.directory}: cannot mount the overlay: ${said}; it needs a file system that overlayfs can write to, or --read-only`,
      { cause },
    );
  }
}

/** A volume starts empty, with the owner and mode of the directory that it covers. */
async function makeVolumes(paths: BundlePaths, volumes: readonly VolumeDirectory[]): Promise<void> {
  if (volumes.length === 0) return;
  await mkdir(paths.volumes);
  for (const [number, { mode, uid, gid }] of volumes.entries()) {
    const path = join(paths.directory, volumePath(number));
    await mkdir(path);
    await chown(path, uid, gid);
    await chmod(path, mode);
  }
}

function volumeDirectory(tree: ErofsTree, path: string): VolumeDirectory {
  const attr = findAttr(tree, path);
  if (attr === undefined) return { mode: 0o755, uid: 0, gid: 0 };
  if ((attr.mode & fileTypeMask) !== fileTypes.directory) {
    throw new OcifsError("unsupported", `config.Volumes: ${path} is a file in the image; want a directory`);
  }
  return { mode: attr.mode & 0o7777, uid: attr.uid, gid: attr.gid };
}

/** The runtime makes missing mountpoints, where it can write. What lies on a file system of its own is made there. */
function requireMountpoints(tree: ErofsTree, settings: RunSettings, cwd: string): void {
  const system = systemMounts.map(({ destination }) => destination);
  const below = (path: string) => system.some((other) => path.startsWith(`${other}/`));
  const wanted = [...system, ...volumesOf(settings), cwd].filter((path) => !below(path));
  const missing = wanted.filter((path) => findAttr(tree, path) === undefined);
  if (missing.length > 0) {
    throw new OcifsError(
      "unsupported",
      `--read-only: the image has no ${missing.join(", ")}, which a container needs; leave --read-only out`,
    );
  }
}

function findAttr(tree: ErofsTree, path: string) {
  try {
    return resolvePath(tree, Buffer.from(path)).attr;
  } catch (error) {
    if (isOcifsError(error, "not-found")) return undefined;
    throw error;
  }
}

/** Empty when the image has none. */
async function readUserFile(
  tree: ErofsTree,
  image: MountableImage,
  path: string,
  signal: AbortSignal | undefined,
): Promise<string> {
  const attr = findAttr(tree, path);
  if (attr === undefined) return "";
  if ((attr.mode & fileTypeMask) !== fileTypes.file) {
    throw new OcifsError("unsupported", `${path} of the image: it is not a regular file`);
  }
  if (attr.sizeBytes > limits.userFileBytes) {
    throw new OcifsError(
      "limit",
      `${path} of the image: ${attr.sizeBytes} bytes, the limit is ${limits.userFileBytes}`,
    );
  }
  const devices = image.layers.map((layer) => layer.device);
  return Buffer.from(await tree.read(attr.nid, 0, attr.sizeBytes, devices, signal)).toString("utf8");
}
