import { constants } from "node:fs";
import { open, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import { checkDigest } from "../oci/verify.js";
import { writeFileAtomically } from "./atomic-file.js";
import type { CacheDirectory } from "./cache-directory.js";
import { type TagKey, tagRecordPath } from "./tag-record.js";

/** Of the files in `refs/`; a reader takes no other. */
const tagRecordVersion = 1;

/** What a tag meant when its registry was last asked. */
export interface KnownReference {
  /** Of what the registry served under the tag: a manifest, or an index. */
  readonly rootDigest: Digest;
  /** When a registry last said so. */
  readonly confirmedAt: Date;
}

/**
 * Manifests, configs and what tags last meant, on disk for all mounts of this user. Layout: docs/FORMATS.md. What is read
 * is checked against the digest that names it; what is damaged counts as absent, with a warning. What cannot be written
 * costs later mounts a request, nothing else.
 */
export class ImageStore {
  readonly #cache: CacheDirectory;
  readonly #log: Log;

  constructor(cache: CacheDirectory, log: Log) {
    this.#cache = cache;
    this.#log = log;
  }

  /** The bytes of a manifest or an index as they were served. */
  async readManifest(digest: Digest): Promise<Uint8Array | undefined> {
    return await this.#readChecked(this.#manifestPath(digest), digest, limits.manifestBytes);
  }

  async writeManifest(digest: Digest, bytes: Uint8Array): Promise<void> {
    await this.#write(this.#manifestPath(digest), bytes);
  }

  /** The config of a manifest. */
  async readConfig(manifest: Digest, config: Digest): Promise<Uint8Array | undefined> {
    return await this.#readChecked(this.#configPath(manifest), config, limits.configBytes);
  }

  async writeConfig(manifest: Digest, bytes: Uint8Array): Promise<void> {
    await this.#write(this.#configPath(manifest), bytes);
  }

  async readTag(key: TagKey): Promise<KnownReference | undefined> {
    const path = tagRecordPath(this.#cache.path, key);
    const found = await this.#read(path, limits.tagRecordBytes);
    if (found === undefined) return undefined;
    try {
      const record: unknown = JSON.parse(Buffer.from(found.bytes).toString("utf8"));
      if (typeof record !== "object" || record === null) throw new OcifsError("corrupt", "it is no JSON object");
      const { digest, ...named } = record as Record<string, unknown>;
      if (named.version !== tagRecordVersion) throw new OcifsError("unsupported", `version ${String(named.version)}`);
      for (const [name, value] of Object.entries(key)) {
        if (named[name] !== value) throw new OcifsError("mismatch", `it is of ${name} ${String(named[name])}`);
      }
      return { rootDigest: parseDigest(String(digest)), confirmedAt: found.modifiedAt };
    } catch (error) {
      this.#damaged(path, error);
      return undefined;
    }
  }

  /** Notes that a registry just now said that this is what the tag means. `known`: what `readTag` returned. */
  async writeTag(key: TagKey, rootDigest: Digest, known?: KnownReference): Promise<void> {
    const path = tagRecordPath(this.#cache.path, key);
    if (known?.rootDigest === rootDigest) {
      await this.#attempt(path, () => utimes(path, new Date(), new Date()));
      return;
    }
    await this.#write(
      path,
      Buffer.from(`${JSON.stringify({ version: tagRecordVersion, ...key, digest: rootDigest }, undefined, 1)}\n`),
    );
  }

  #manifestPath(digest: Digest): string {
    return join(this.#cache.imagePath(digest), "manifest.json");
  }

  #configPath(manifest: Digest): string {
    return join(this.#cache.imagePath(manifest), "config.json");
  }

  async #readChecked(path: string, digest: Digest, maximumBytes: number): Promise<Uint8Array | undefined> {
    const found = await this.#read(path, maximumBytes);
    if (found === undefined) return undefined;
    try {
      checkDigest(found.bytes, digest, path);
      return found.bytes;
    } catch (error) {
      this.#damaged(path, error);
      return undefined;
    }
  }

  async #read(path: string, maximumBytes: number): Promise<{ bytes: Uint8Array; modifiedAt: Date } | undefined> {
    try {
      // O_NONBLOCK: a FIFO in its place must not stop a mount.
      await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const { size, mtime } = await file.stat();
      if (size > maximumBytes) throw new OcifsError("limit", `${size} bytes, the limit is ${maximumBytes}`);
      return { bytes: await file.readFile(), modifiedAt: mtime };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") this.#damaged(path, error);
      return undefined;
    }
  }

  async #write(path: string, bytes: Uint8Array): Promise<void> {
    await this.#attempt(path, async () => {
      await ensureDirectory(dirname(path), 0o700);
      using room = await this.#cache.room.reserve(bytes.length);
      if (!room) throw new OcifsError("no-space", "the cache is full");
      await writeFileAtomically(path, bytes);
    });
  }

  async #attempt(path: string, write: () => Promise<void>): Promise<void> {
    // Said once, where the cache was opened.
    if (this.#cache.unusable !== undefined) return;
    try {
      await write();
    } catch (error) {
      this.#log.warn("the image's metadata cannot be kept; a mount while the registry is down will not find it", {
        path,
        reason: messageOf(error),
      });
    }
  }

  #damaged(path: string, error: unknown): void {
    this.#log.warn("cached metadata cannot be used; it counts as absent", {
      path,
      reason: `${path}: ${messageOf(error)}`,
    });
  }
}
