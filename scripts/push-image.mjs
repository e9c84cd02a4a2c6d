#!/usr/bin/env node
// Pushes an image of one gzip layer to a registry over plain HTTP, by the OCI distribution API. Uploads no blob twice.
//
//   scripts/push-image.mjs HOST:PORT NAME:TAG LAYER.tar.gz DIFFID
import { createHash } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { pipeline } from "node:stream/promises";

const [registry, name, layerPath, diffId] = process.argv.slice(2);
const [repository, tag] = (name ?? "").split(":");
if (!registry || !repository || !tag || !layerPath || !/^sha256:[0-9a-f]{64}$/.test(diffId ?? "")) {
  console.error("usage: scripts/push-image.mjs HOST:PORT NAME:TAG LAYER.tar.gz DIFFID");
  process.exit(2);
}
const base = new URL(`http://${registry}/v2/${repository}/`);

async function request(method, url, expectedStatus, options = {}) {
  const response = await fetch(url, { method, ...options });
  if (response.status !== expectedStatus) {
    throw new Error(`${method} ${url}: got ${response.status}, want ${expectedStatus}: ${await response.text()}`);
  }
  await response.arrayBuffer();
  return response;
}

async function pushBlob(digest, sizeBytes, openBody) {
  const found = await fetch(new URL(`blobs/${digest}`, base), { method: "HEAD" });
  if (found.status === 200) return;
  const session = await request("POST", new URL("blobs/uploads/", base), 202);
  const target = new URL(session.headers.get("location"), base);
  target.searchParams.set("digest", digest);
  await request("PUT", target, 201, {
    body: openBody(),
    duplex: "half",
    headers: { "content-length": String(sizeBytes), "content-type": "application/octet-stream" },
  });
}

const sha256 = (bytes) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

const layerHash = createHash("sha256");
await pipeline(createReadStream(layerPath), layerHash);
const layerDigest = `sha256:${layerHash.digest("hex")}`;
const layerSizeBytes = statSync(layerPath).size;
await pushBlob(layerDigest, layerSizeBytes, () => createReadStream(layerPath));

const architectures = { x64: "amd64", arm64: "arm64", arm: "arm", ia32: "386" };
const config = JSON.stringify({
  architecture: architectures[process.arch] ?? process.arch,
  os: "linux",
  config: { Cmd: ["/bin/bash"] },
  rootfs: { type: "layers", diff_ids: [diffId] },
});
await pushBlob(sha256(config), Buffer.byteLength(config), () => config);

const manifest = JSON.stringify({
  schemaVersion: 2,
  mediaType: "application/vnd.oci.image.manifest.v1+json",
  config: {
    mediaType: "application/vnd.oci.image.config.v1+json",
    digest: sha256(config),
    size: Buffer.byteLength(config),
  },
  layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: layerDigest, size: layerSizeBytes }],
});
await request("PUT", new URL(`manifests/${tag}`, base), 201, {
  body: manifest,
  headers: { "content-type": "application/vnd.oci.image.manifest.v1+json" },
});
console.log(`${registry}/${name}@${sha256(manifest)}`);
