import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { type Descriptor, parseDescriptor } from "./descriptor.js";
import { asArray, asOptionalString, asStringMap, type JsonObject, parseJsonObject } from "./json.js";
import { type ManifestKind, manifestKindOf, mediaTypes } from "./media-types.js";
import { formatPlatform, type Platform, platformDistance } from "./platform.js";

/** One image for one platform: OCI manifest or Docker schema 2. */
export interface ImageManifest {
  readonly kind: "manifest";
  readonly mediaType: string;
  readonly config: Descriptor;
  /** Lowest layer first. */
  readonly layers: readonly Descriptor[];
  readonly annotations: ReadonlyMap<string, string>;
}

/** Several manifests to choose from: OCI image index or Docker manifest list. */
export interface ImageIndex {
  readonly kind: "index";
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
  readonly annotations: ReadonlyMap<string, string>;
}

/**
 * Parses an image manifest or index from outside. `declaredType` is the Content-Type or the descriptor's media type; it
 * decides when the document has no `mediaType` (legal in OCI), and a contradiction is refused: a document that is a
 * manifest to one reader and an index to another is an attack (CVE-2021-41190).
 * `what` names the document in messages. Throws `corrupt`, `unsupported` (schema 1) or `limit`.
 */
export function parseManifest(bytes: Uint8Array, what: string, declaredType?: string): ImageManifest | ImageIndex {
  if (bytes.length > limits.manifestBytes) {
    throw new OcifsError("limit", `${what}: ${bytes.length} bytes, the limit is ${limits.manifestBytes}`);
  }
  const document = parseJsonObject(bytes, what);
  const ownType = asOptionalString(document.mediaType, `${what}: mediaType`) || undefined;
  const shape = shapeOf(document, what, ownType, declaredType);
  const typeText = [ownType, declaredType].find((type) => type !== undefined && manifestKindOf(type) === shape);
  const annotations = asStringMap(document.annotations, `${what}: annotations`);
  if (shape === "index") {
    const manifests = asArray(document.manifests, `${what}: manifests`, limits.indexManifests).map((item, index) =>
      parseDescriptor(item, `${what}: manifests[${index}]`),
    );
    return { kind: "index", mediaType: typeText ?? mediaTypes.ociIndex, manifests, annotations };
  }
  const layers = asArray(document.layers, `${what}: layers`, limits.layers).map((item, index) =>
    parseDescriptor(item, `${what}: layers[${index}]`),
  );
  const config = parseDescriptor(document.config, `${what}: config`);
  return { kind: "manifest", mediaType: typeText ?? mediaTypes.ociManifest, config, layers, annotations };
}

function shapeOf(document: JsonObject, what: string, ownType?: string, declaredType?: string): "manifest" | "index" {
  const kinds = [ownType, declaredType].map((type) => (type === undefined ? undefined : manifestKindOf(type)));
  if (document.schemaVersion === 1 || kinds.includes("schema1")) {
    throw new OcifsError(
      "unsupported",
      `${what}: a Docker schema 1 manifest; push the image again with a current tool`,
    );
  }
  if (document.schemaVersion !== 2) {
    throw new OcifsError("corrupt", `${what}: want schemaVersion 2, got ${describe(document.schemaVersion)}`);
  }
  const shapes: ManifestKind[] = [];
  if (document.layers !== undefined || document.config !== undefined) shapes.push("manifest");
  if (document.manifests !== undefined) shapes.push("index");
  const [shape] = shapes;
  if (shapes.length > 1) {
    throw new OcifsError("corrupt", `${what}: has both "manifests" and "layers" or "config"; refusing to guess`);
  }
  if (shape !== "manifest" && shape !== "index") {
    throw new OcifsError("corrupt", `${what}: neither an image manifest nor an image index (${ownType ?? "no type"})`);
  }
  if (ownType !== undefined && kinds[0] === undefined) {
    throw new OcifsError("unsupported", `${what}: media type "${ownType}" is not an image manifest or index`);
  }
  for (const kind of kinds) {
    if (kind !== undefined && kind !== shape) {
      throw new OcifsError(
        "corrupt",
        `${what}: declared to be ${kind === "index" ? "an" : "a"} ${kind}, but it is not`,
      );
    }
  }
  return shape;
}

function describe(value: unknown): string {
  return value === undefined ? "nothing" : (JSON.stringify(value)?.slice(0, 40) ?? "nothing");
}

/**
 * The entry of an index that serves `wanted` best; the first among equals. An index whose only image has no platform
 * means that image. Throws `not-found` that lists what there is.
 */
export function choosePlatform(index: ImageIndex, wanted: Platform, what: string): Descriptor {
  const images = index.manifests.filter((entry) => isImageEntry(entry));
  let best: Descriptor | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const entry of images) {
    if (entry.platform === undefined) continue;
    const distance = platformDistance(wanted, entry.platform);
    if (distance !== undefined && distance < bestDistance) {
      best = entry;
      bestDistance = distance;
    }
  }
  const [only, ...others] = images;
  if (best === undefined && only !== undefined && others.length === 0 && only.platform === undefined) best = only;
  if (best !== undefined) return best;
  const platforms = images.map((entry) =>
    entry.platform === undefined ? "(none given)" : formatPlatform(entry.platform),
  );
  const found = [...new Set(platforms)].slice(0, 20).join(", ");
  throw new OcifsError(
    "not-found",
    `${what}: no image for ${formatPlatform(wanted)}; there is ${found || "no image at all"}; choose with oci.platform=`,
  );
}

/** Attestations and signatures stand in indexes too, with platform unknown/unknown or an annotation that says so. */
function isImageEntry(entry: Descriptor): boolean {
  const kind = manifestKindOf(entry.mediaType);
  if (kind !== "manifest" && kind !== "index") return false;
  return entry.platform?.os !== "unknown" && !entry.annotations.has("vnd.docker.reference.type");
}
