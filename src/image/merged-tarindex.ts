import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError, throwIfAborted } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { AtomicFile, writeFileAtomically } from "../cache/atomic-file.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import type { IndexManifest } from "../index/manifest.js";
import type { ErofsImage } from "../native/erofs.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import { deviceTagOf } from "./device-tag.js";
import { openTarindexCopy, openTarindexInMemory } from "./tarindex-memory.js";

/** Goes up when the merge makes other bytes of the same indexes: what is kept of an older one is then not found any more. */
export const mergeFormatVersion = 1;

/** A layer of the image, lowest first, with the JSON of the index that it is merged from. */
export interface MergedLayer {
  readonly digest: Digest;
  readonly manifest: IndexManifest;
}

/**
 * The merged tarindex of one image as it is kept beside the image's manifest, under a name that stands for everything that
 * goes into it. Its digest lies beside it: a damaged file is noticed, and made again.
 */
export class MergedTarindex {
  readonly #cache: CacheDirectory;
  readonly #log: Log;
  readonly #directory: string;
  readonly #name: string;
  readonly #tags: readonly string[];

  constructor(cache: CacheDirectory, image: Digest, layers: readonly MergedLayer[], log: Log) {
    this.#cache = cache;
    this.#log = log;
    this.#directory = cache.imagePath(image);
    this.#name = `tarindex-${keyOf(layers)}`;
    this.#tags = [...new Set(layers.map(({ digest }) => deviceTagOf(digest)))];
  }

  /** A copy in memory, or undefined when nothing is kept, or what is kept is damaged. */
  async open(signal?: AbortSignal): Promise<ErofsImage | undefined> {
    try {
      const wanted = await readFile(this.#digestPath, "utf8").catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return undefined;
        throw error;
      });
      if (wanted === undefined) return undefined;
      const tree = await openTarindexCopy(this.#path, parseDigest(wanted.trim()), signal);
      try {
        this.#checkDevices(tree);
        return tree;
      } catch (error) {
        tree.close();
        throw error;
      }
    } catch (error) {
      throwIfAborted(signal, "merged tarindex");
      this.#log.warn("the merged tarindex in the cache cannot be used; it is made again", {
        path: this.#path,
        reason: `${this.#path}: ${messageOf(error)}`,
      });
      return undefined;
    }
  }

  /** Opens a fresh merge in memory and keeps it. That it cannot be kept costs the next mount time, and this one nothing. */
  async make(pieces: Iterable<Uint8Array>, signal?: AbortSignal): Promise<ErofsImage> {
    const hash = createHash("sha256");
    let file = await this.#attempt(() => this.#create());
    try {
      const onPiece = async (piece: Uint8Array) => {
        hash.update(piece);
        const current = file;
        if (current === undefined) return;
        const written = await this.#attempt(async () => {
          using room = await this.#cache.room.reserve(piece.length);
          if (!room) throw new OcifsError("no-space", "the cache is full");
          await current.append(piece);
          return true;
        });
        if (written) return;
        file = undefined;
        await current[Symbol.asyncDispose]();
      };
      const tree = await openTarindexInMemory(pieces, { written: true, onPiece, signal });
      const whole = file;
      if (whole !== undefined) {
        await this.#attempt(async () => {
          await whole.commit();
          await writeFileAtomically(this.#digestPath, `sha256:${hash.digest("hex")}\n`);
        });
      }
      return tree;
    } finally {
      await file?.[Symbol.asyncDispose]();
    }
  }

  get #path(): string {
    return join(this.#directory, this.#name);
  }

  get #digestPath(): string {
    return `${this.#path}.digest`;
  }

  async #create(): Promise<AtomicFile> {
    await ensureDirectory(this.#directory, 0o700);
    return await AtomicFile.create(this.#path);
  }

  async #attempt<T>(write: () => Promise<T>): Promise<T | undefined> {
    // Said once, where the cache was opened.
    if (this.#cache.unusable !== undefined) return undefined;
    try {
      return await write();
    } catch (error) {
      this.#log.warn("the merged tarindex cannot be kept; the next mount makes it again", { reason: messageOf(error) });
      return undefined;
    }
  }

  #checkDevices(tree: ErofsImage): void {
    const found = tree.info().devices.map(({ tag }) => Buffer.from(tag).toString("latin1").replace(/\0+$/, ""));
    if (found.join() === this.#tags.join()) return;
    throw new OcifsError("mismatch", `its devices are ${found.join(", ")}, want ${this.#tags.join(", ")}`);
  }
}

/** Of all that the merge reads: the layers' digests, their tarindexes, and what their JSON adds to those. */
function keyOf(layers: readonly MergedLayer[]): string {
  const hash = createHash("sha256").update(`ocifs merged tarindex ${mergeFormatVersion}\n`);
  for (const { digest, manifest } of layers) {
    const { whiteouts, tarindex, impliedDirectories, danglingLinks } = manifest;
    hash.update(`${digest} ${whiteouts} ${tarindex.digest} ${impliedDirectories.join()} ${danglingLinks.length}\n`);
    for (const { path, target } of danglingLinks) {
      hash.update(`${path.length} ${target.length}\n`).update(path).update(target);
    }
  }
  return hash.digest("hex").slice(0, 32);
}
