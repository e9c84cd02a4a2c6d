import assert from "node:assert/strict";
import { test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { mergeLayers } from "../../src/image/merge-layers.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { tarindexOfTar } from "../support/layers.js";
import { imageOfBytes, mergeLayerOfTar } from "../support/merge.js";
import { buildTar } from "../support/tar-builder.js";

const upper = buildTar([
  { path: "d/x", data: "x".repeat(700), xattrs: { "user.k": "v", "trusted.overlay.opaque": "y" } },
  { path: "d/.wh.gone" },
  { path: "d/.wh..wh..opq" },
  { path: "e", type: "directory" },
  { path: "e/link", type: "symlink", linkPath: "../d" },
  { path: "e/hard", type: "hardlink", linkPath: "d/x" },
  { path: "null", type: "char", device: [1, 3] },
  {
    path: "sparse",
    data: "z".repeat(512),
    pax: { "GNU.sparse.size": "4096", "GNU.sparse.map": "1024,512" },
  },
]);

test("a damaged index is merged or refused, nothing else", () => {
  const lower = mergeLayerOfTar(buildTar([{ path: "d/gone" }, { path: "d/stays" }, { path: "e", data: "file" }]));
  const index = tarindexOfTar(upper);
  let merged = 0;
  let refused = 0;
  for (let at = 1024; at < index.length; at++) {
    for (const mask of [0xff, 0x01, 0x10]) {
      const damaged = Buffer.from(index);
      damaged[at] = (damaged[at] ?? 0) ^ mask;
      // The superblock's checksum would catch what is near it.
      damaged[1032] = (damaged[1032] ?? 0) & 0xfe;
      try {
        using image = imageOfBytes(damaged);
        for (const piece of mergeLayers([lower, { image, digest: digestOfBytes(upper) }]))
          merged += piece.length > 0 ? 1 : 0;
      } catch (error) {
        assert.ok(error instanceof OcifsError && error.code !== "internal", `byte ${at}: ${String(error)}`);
        refused++;
      }
    }
  }
  assert.ok(merged > 1000 && refused > 100, `${merged} merged, ${refused} refused`);
});
