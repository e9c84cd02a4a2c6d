import assert from "node:assert/strict";
import { readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { writeLayout } from "../support/layout.js";
import { MountSandbox } from "../support/mounted-image.js";
import { buildTar } from "../support/tar-builder.js";

const tars = Array.from({ length: 5 }, (_, i) => buildTar([{ path: `file-${i}`, data: "x".repeat(100 * i) }]));

async function setStage(t: TestContext, diffIds: readonly (Digest | undefined)[] = []) {
  const sandbox = await MountSandbox.open(t);
  const layout = join(sandbox.directory, "layout");
  const layers = tars.map((tar, i) => ({
    bytes: gzipSync(tar),
    mediaType: mediaTypes.ociLayerGzip,
    diffId: diffIds[i] ?? digestOfBytes(tar),
  }));
  await writeLayout(layout, [{ layers, tag: "t" }]);
  const create = (...more: string[]) =>
    sandbox.ocifs(["index", "create", `oci:${layout}:t`, "--cachedir", sandbox.cache, ...more]);
  const pathOf = (number: number, extension: string) => {
    const hex = digestOfBytes(layers[number]?.bytes ?? Buffer.alloc(0)).slice(7);
    return join(sandbox.cache, "indexes", "sha256", hex, `sha256-${hex}.${extension}`);
  };
  return { sandbox, create, pathOf };
}

test("good indexes are left alone, others are made; --force makes all again", async (t) => {
  const { create, pathOf } = await setStage(t);
  const first = await create();
  assert.equal(first.status, 0, first.stderr);
  const inodes = async () => Promise.all(tars.map(async (_, i) => (await stat(pathOf(i, "tarindex"))).ino));
  const before = await inodes();
  const second = await create();
  assert.equal(second.stdout, first.stdout);
  assert.equal(
    second.stderr.match(/^layer \d of 5: sha256:[0-9a-f]{64}: its index is there; --force makes it again$/gm)?.length,
    5,
  );
  assert.deepEqual(await inodes(), before);
  await writeFile(pathOf(3, "zinfo"), "");
  const { layers } = JSON.parse((await create("--json")).stdout) as { layers: { created: boolean }[] };
  assert.deepEqual(
    layers.map(({ created }) => created),
    [false, false, false, true, false],
  );
  // Another span size is another index.
  const spans = JSON.parse((await create("--json", "--span", "64K")).stdout) as
    | typeof layers
    | { layers: typeof layers };
  assert.ok("layers" in spans && spans.layers.every(({ created }) => created));
  const forced = await create("--json", "--force");
  assert.ok((JSON.parse(forced.stdout) as { layers: typeof layers }).layers.every(({ created }) => created));
  assert.doesNotMatch(forced.stderr, /its index is there/);
});

test("an error names its layer, and no half index is left", async (t) => {
  const wrong: Digest = `sha256:${"0".repeat(64)}`;
  const { sandbox, create, pathOf } = await setStage(t, [undefined, undefined, wrong]);
  const { status, stdout, stderr } = await create();
  assert.deepEqual([status, stdout], [1, ""]);
  assert.match(
    stderr,
    /^ocifs: layer 2 of 5: sha256:[0-9a-f]{64}: index create .* the image config wants sha256:0{64}$/m,
  );
  const hex = pathOf(2, "json").split("/").at(-2) ?? "";
  assert.deepEqual(await readdir(join(sandbox.cache, "indexes", "sha256", hex)), []);
  const left = await readdir(join(sandbox.cache, "indexes"), { recursive: true });
  assert.deepEqual(
    left.filter((name) => name.endsWith(".tmp")),
    [],
  );
});
