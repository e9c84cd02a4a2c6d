/**
 * A process that streams a blob into a cache file beside others: `registry repository digest sizeBytes path`. Says
 * "at BYTES" for each chunk it followed, and "complete DIGEST" at the end.
 */
import { createHash } from "node:crypto";
import { openRegistryImage } from "../../src/blob/registry-image.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { InFlightStream } from "../../src/layer/in-flight-stream.js";
import { parseDigest } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { parseReference } from "../../src/oci/reference.js";

const [host = "", repository = "", digest = "", size = "", path = ""] = process.argv.slice(2);
const descriptor = {
  mediaType: mediaTypes.ociLayerTar,
  digest: parseDigest(digest),
  sizeBytes: Number(size),
  annotations: new Map<string, string>(),
};
await using image = openRegistryImage(parseReference(`${host}/${repository}:v1`), { insecure: true });
await using source = await image.openBlob(descriptor);
await using file = await CompressedFile.open(path, descriptor.sizeBytes);
await using stream = InFlightStream.open({ source, file });
const hash = createHash("sha256");
let at = 0;
for await (const chunk of stream.follow()) {
  hash.update(chunk);
  at += chunk.length;
  process.stdout.write(`at ${at}\n`);
}
process.stdout.write(`complete sha256:${hash.digest("hex")}\n`);
