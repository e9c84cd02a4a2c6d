import { execFile } from "node:child_process";
import { readdir, rmdir, statfs } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { readMountTable } from "../base/mount-table.js";
import { launchDaemon } from "../daemon/launch.js";
import type { MountConfig } from "../daemon/mount-config.js";
import { type Digest, hexOf } from "../oci/digest.js";

const run = promisify(execFile);

/** The lowest `layerCount` layers of an image, merged. */
export interface MountedImage {
  /** `registry/repository@digest` of the manifest. */
  readonly source: string;
  readonly manifest: Digest;
  readonly layerCount: number;
}

/** The ocifs mounts below one directory: one for each image, or part of one, that snapshots lie on. They outlive this process. */
export interface ImageMounts {
  /** Where the image is mounted, or would be. */
  directoryOf(image: MountedImage): string;
  /** Makes the mount unless it is there and answers: its directory. Callers that come together share the work. */
  mount(image: MountedImage): Promise<string>;
  /** Detaches it; what has files open there keeps them. Nothing happens when it is not mounted. */
  unmount(directory: string): Promise<void>;
  /** Directories of all mounts, also of those that are not mounted just now. */
  list(): Promise<string[]>;
}

export interface DaemonMountsOptions {
  readonly directory: string;
  /** What a mount is made with, besides what it is of. */
  readonly configOf: (image: MountedImage) => Omit<MountConfig, "source" | "mountpoint" | "layerCount">;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** A daemon for each mount: it goes on serving when the snapshotter is killed, and dies for nobody else. */
export class DaemonMounts implements ImageMounts {
  readonly #options: DaemonMountsOptions;
  readonly #underWay = new Map<string, Promise<unknown>>();

  constructor(options: DaemonMountsOptions) {
    this.#options = options;
  }

  directoryOf({ manifest, layerCount }: MountedImage): string {
    return join(this.#options.directory, `${hexOf(manifest)}-${layerCount}`);
  }

  mount(image: MountedImage): Promise<string> {
    const directory = this.directoryOf(image);
    return this.#alone(directory, "join", async () => {
      if (!(await this.#answers(directory))) await this.#launch(image, directory);
      return directory;
    });
  }

  async unmount(directory: string): Promise<void> {
    await this.#alone(directory, "follow", async () => {
      if (await isMountpoint(directory)) await detach(directory);
      await rmdir(directory).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
      });
      return directory;
    });
  }

  async list(): Promise<string[]> {
    const names = await readdir(this.#options.directory).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return [];
      throw error;
    });
    return names.map((name) => join(this.#options.directory, name));
  }

  /** One action at a time for each directory: mounting is joined, anything else waits for its turn. */
  async #alone(directory: string, how: "join" | "follow", action: () => Promise<string>): Promise<string> {
    const key = `${how} ${directory}`;
    const joined = how === "join" ? this.#underWay.get(key) : undefined;
    if (joined !== undefined) return (await joined) as string;
    const before = [...this.#underWay].filter(([other]) => other.endsWith(` ${directory}`)).map(([, done]) => done);
    const done = Promise.allSettled(before).then(action);
    this.#underWay.set(key, done);
    try {
      return await done;
    } finally {
      if (this.#underWay.get(key) === done) this.#underWay.delete(key);
    }
  }

  async #answers(directory: string): Promise<boolean> {
    if (!(await isMountpoint(directory))) return false;
    try {
      await statfs(directory);
      return true;
    } catch (error) {
      // Its daemon is dead. Whoever reads there gets errors already; a new mount serves those who come now.
      this.#options.log.warn("a mount does not answer and is made again", { directory, reason: messageOf(error) });
      await detach(directory);
      return false;
    }
  }

  async #launch(image: MountedImage, directory: string): Promise<void> {
    const { log, signal, configOf } = this.#options;
    await ensureDirectory(directory, 0o700);
    const config = { ...configOf(image), source: image.source, mountpoint: directory, layerCount: image.layerCount };
    const startMs = Date.now();
    const { pid, warnings } = await launchDaemon(config, signal, () => undefined);
    for (const warning of warnings) log.warn(warning, { source: image.source });
    log.info("mounted", { source: image.source, layers: image.layerCount, pid, ms: Date.now() - startMs });
  }
}

async function isMountpoint(directory: string): Promise<boolean> {
  return (await readMountTable("self")).some(({ path }) => path === directory);
}

/** Lazily, since a container may lie on it; through umount(8), which any mount of ours can be ended with. */
async function detach(directory: string): Promise<void> {
  try {
    await run("umount", ["-l", "-i", "--", directory]);
  } catch (cause) {
    throw new OcifsError("io", `unmount of ${directory}: ${messageOf(cause)}`, { cause });
  }
}
