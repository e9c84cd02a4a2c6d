import { createHash } from "node:crypto";
import { isOcifsError, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { blockBytes } from "../erofs/format.js";
import { writeTarindex } from "../erofs/tarindex-writer.js";
import type { IndexManifest } from "../index/manifest.js";
import type { ErofsImage } from "../native/erofs.js";
import type { Digest } from "../oci/digest.js";
import { deviceTagOf } from "./device-tag.js";
import { MergedTree } from "./merge-tree.js";

/** What the merge needs of an index's JSON. */
export type LayerFacts = Pick<IndexManifest, "whiteouts" | "impliedDirectories" | "danglingLinks">;

export interface MergeLayer {
  /** Its tarindex, of one device and with whiteouts kept. Read during `add` only; stays the caller's to close. */
  readonly image: ErofsImage;
  /** Of the blob. */
  readonly digest: Digest;
  /** From the index's JSON. Without it every directory of the tarindex counts as described by the layer. */
  readonly facts?: LayerFacts;
}

export interface MergedDevice {
  readonly digest: Digest;
  /** Of the layer's uncompressed tar, 512 bytes each. */
  readonly blocks: number;
}

/**
 * Merges the tarindexes of an image's layers into one whose inodes point into the layers' tars: `add` each layer, base first, then `write`.
 * There is one device slot for each distinct layer, in the order of their first `add`: a layer that an image has twice is one device.
 */
export class LayerMerge {
  readonly #merged = new MergedTree();
  readonly #slots = new Map<Digest, { readonly number: number; readonly blocks: number }>();
  readonly #uuid = createHash("sha256");
  #layers = 0;
  #broken = false;

  /** Slot k + 1 of the merged tarindex. */
  get devices(): readonly MergedDevice[] {
    return [...this.#slots].map(([digest, { blocks }]) => ({ digest, blocks }));
  }

  /**
   * Applies a layer on those before it. Takes about a second for 250,000 entries and returns when it is done. Throws `corrupt`,
   * `mismatch`, `unsupported` or `limit`, naming the layer; nothing can be added or written after that.
   */
  add(layer: MergeLayer): void {
    if (this.#broken) throw new OcifsError("internal", "merge: used after it failed");
    this.#broken = true;
    try {
      if (this.#layers === limits.layers) throw new OcifsError("limit", `more than ${limits.layers} layers`);
      if (layer.facts !== undefined && layer.facts.whiteouts !== "keep") {
        throw new OcifsError(
          "unsupported",
          'its index has whiteouts in overlayfs\'s form; create it again with "keep"',
        );
      }
      const device = this.#slotOf(layer);
      this.#merged.apply({ image: layer.image, facts: layer.facts, device });
      this.#uuid.update(`${layer.digest}\n`);
    } catch (error) {
      if (!isOcifsError(error)) throw error;
      throw new OcifsError(error.code, `merge of layer ${this.#layers}, ${layer.digest}: ${error.message}`, {
        cause: error,
      });
    }
    this.#layers++;
    this.#broken = false;
  }

  /** The merged tarindex as consecutive pieces; the same layers give the same bytes. Throws `usage` without layers, `limit`. */
  write(): Generator<Uint8Array> {
    if (this.#broken) throw new OcifsError("internal", "merge: used after it failed");
    if (this.#layers === 0) throw new OcifsError("usage", "merge: an image without layers has nothing to mount");
    const devices = this.devices.map(({ digest, blocks }) => ({ tag: deviceTagOf(digest), blocks }));
    return writeTarindex(this.#merged.tree, { devices, uuid: uuidOf(this.#uuid.copy().digest()) });
  }

  #slotOf({ image, digest }: MergeLayer): number {
    const { devices, blockSizeBytes } = image.info();
    const [device] = devices;
    if (device === undefined || devices.length !== 1 || blockSizeBytes !== blockBytes) {
      throw new OcifsError(
        "unsupported",
        `its index has ${devices.length} devices and blocks of ${blockSizeBytes} bytes, want one device and ${blockBytes}`,
      );
    }
    const known = this.#slots.get(digest);
    if (known !== undefined) {
      if (known.blocks === device.blocks) return known.number;
      throw new OcifsError("mismatch", `${device.blocks} blocks of tar, ${known.blocks} where it came first`);
    }
    const number = this.#slots.size + 1;
    this.#slots.set(digest, { number, blocks: device.blocks });
    return number;
  }
}

/** All of a merge at once, for layers that are all there. */
export function mergeLayers(layers: Iterable<MergeLayer>): Generator<Uint8Array> {
  const merge = new LayerMerge();
  for (const layer of layers) merge.add(layer);
  return merge.write();
}

/** A UUID of version 8 (RFC 9562, free use) for this list of layers. */
function uuidOf(hash: Buffer): Uint8Array {
  const uuid = hash.subarray(0, 16);
  uuid[6] = ((uuid[6] ?? 0) & 0x0f) | 0x80;
  uuid[8] = ((uuid[8] ?? 0) & 0x3f) | 0x80;
  return uuid;
}
