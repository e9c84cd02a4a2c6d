import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { parseDocumentDigest } from "./descriptor.js";
import type { Digest } from "./digest.js";
import { asArray, asObject, asOptionalString, asString, parseJsonObject } from "./json.js";
import type { ImageManifest } from "./manifest.js";
import { normalizePlatform, type Platform } from "./platform.js";

/** The parts of an image config that mounting needs: OCI image spec `config.md`. */
export interface ImageConfig {
  /** Absent when the config does not say; old Docker images left it out. */
  readonly platform?: Platform;
  /** Digests of the uncompressed layer tars, lowest layer first. */
  readonly diffIds: readonly Digest[];
  /** The document as it was served, for tools that need the rest of it. */
  readonly bytes: Uint8Array;
}

/** Parses an image config from outside. Throws `corrupt`, `unsupported` or `limit`. */
export function parseImageConfig(bytes: Uint8Array, what: string): ImageConfig {
  if (bytes.length > limits.configBytes) {
    throw new OcifsError("limit", `${what}: ${bytes.length} bytes, the limit is ${limits.configBytes}`);
  }
  const document = parseJsonObject(bytes, what);
  if (document.rootfs === undefined) {
    throw new OcifsError("unsupported", `${what}: has no rootfs; an artifact, not a container image`);
  }
  const rootfs = asObject(document.rootfs, `${what}: rootfs`);
  const type = asString(rootfs.type, `${what}: rootfs.type`);
  if (type !== "layers") {
    throw new OcifsError("unsupported", `${what}: rootfs.type "${type.slice(0, 40)}"; want "layers"`);
  }
  const diffIds = asArray(rootfs.diff_ids ?? [], `${what}: rootfs.diff_ids`, limits.layers).map((item, index) =>
    parseDocumentDigest(item, `${what}: rootfs.diff_ids[${index}]`),
  );
  const os = asOptionalString(document.os, `${what}: os`);
  const architecture = asOptionalString(document.architecture, `${what}: architecture`);
  const variant = asOptionalString(document.variant, `${what}: variant`);
  const platform = os && architecture ? { platform: normalizePlatform(os, architecture, variant) } : {};
  return { diffIds, bytes, ...platform };
}

/** Every layer needs its diffID; throws `mismatch` when manifest and config disagree about their number. */
export function checkConfigOfManifest(config: ImageConfig, manifest: ImageManifest, what: string): void {
  if (config.diffIds.length !== manifest.layers.length) {
    throw new OcifsError(
      "mismatch",
      `${what}: the config names ${config.diffIds.length} layers, the manifest ${manifest.layers.length}`,
    );
  }
}
