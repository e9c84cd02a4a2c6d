import assert from "node:assert/strict";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { digestOfBytes, hexOf } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { type Outcome, outcomeOf } from "../support/image-outcome.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";
import { writeLayout } from "../support/layout.js";
import { tempDirectory } from "../support/temp.js";

/**
 * An index made by us, with its JSON: whatever happens to one of the files, an image is refused, or its reads are right or
 * fail. The digests leave nothing to chance, so this holds for every byte.
 */
interface Attempt {
  readonly fixture: LayerFixture;
  readonly original: Readonly<Record<Part, Buffer>>;
  try(changed: Partial<Record<Part, Uint8Array>>, what: string): Promise<Outcome>;
}

type Part = "tarindex" | "zinfo" | "json" | "blob";

async function setUp(t: TestContext): Promise<Attempt> {
  const fixture = await makeLayerFixture(t, { files: { small: 1000, big: 160_000, last: 9000 } });
  const layout = await tempDirectory(t);
  await writeLayout(layout, [{ layers: [{ bytes: fixture.gz, mediaType: mediaTypes.ociLayerGzip }] }]);
  const blobPath = join(layout, "blobs", "sha256", hexOf(digestOfBytes(fixture.gz)));
  const paths: Record<Part, string> = {
    tarindex: fixture.index.tarindexPath,
    zinfo: fixture.index.zinfoPath,
    json: fixture.index.jsonPath,
    blob: blobPath,
  };
  const parts = Object.keys(paths) as Part[];
  const original = Object.fromEntries(
    await Promise.all(parts.map(async (part) => [part, await readFile(paths[part])] as const)),
  ) as Record<Part, Buffer>;
  let variant = 0;
  const attempt = async (changed: Partial<Record<Part, Uint8Array>>, what: string) => {
    const cacheDir = join(fixture.directory, `cache-${variant++}`);
    for (const [part, bytes] of Object.entries(changed)) await writeFile(paths[part as Part], bytes);
    try {
      return await outcomeOf(
        { source: `oci:${layout}`, cacheDir, tarindex: paths.tarindex, zinfo: paths.zinfo },
        fixture.files,
        what,
      );
    } finally {
      for (const part of Object.keys(changed) as Part[]) await writeFile(paths[part], original[part]);
      await rm(cacheDir, { recursive: true, force: true });
    }
  };
  return { fixture, original, try: attempt };
}

/** One bit of byte `at`; another one for its neighbours. */
function flipped(bytes: Buffer, at: number, bit = (at * 5 + 3) % 8): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ (1 << bit);
  return copy;
}

function* every(step: number, end: number, start = 0): Iterable<number> {
  for (let at = start; at < end; at += step) yield at;
}

test("untouched, everything is right", async (t) => {
  const attempt = await setUp(t);
  assert.equal(await attempt.try({}, "untouched"), "right");
});

test("a flipped bit of the tarindex is refused", async (t) => {
  const attempt = await setUp(t);
  for (const at of every(7, attempt.original.tarindex.length)) {
    const tarindex = flipped(attempt.original.tarindex, at);
    assert.equal(await attempt.try({ tarindex }, `tarindex byte ${at}`), "refused");
  }
});

test("a flipped bit of the zinfo is refused", async (t) => {
  const attempt = await setUp(t);
  for (const at of every(499, attempt.original.zinfo.length)) {
    const zinfo = flipped(attempt.original.zinfo, at);
    assert.equal(await attempt.try({ zinfo }, `zinfo byte ${at}`), "refused");
  }
});

test("a flipped bit of the JSON is refused, shows at a read, or changes nothing", async (t) => {
  const attempt = await setUp(t);
  const seen = new Map<Outcome, number>();
  for (const at of every(3, attempt.original.json.length)) {
    const outcome = await attempt.try({ json: flipped(attempt.original.json, at) }, `JSON byte ${at}`);
    seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
  }
  assert.ok((seen.get("refused") ?? 0) > 0 && (seen.get("unreadable") ?? 0) > 0, JSON.stringify([...seen]));
});

test("a flipped bit of the blob is never served", async (t) => {
  const attempt = await setUp(t);
  for (const at of every(611, attempt.original.blob.length)) {
    const outcome = await attempt.try({ blob: flipped(attempt.original.blob, at) }, `blob byte ${at}`);
    assert.notEqual(outcome, "refused", `blob byte ${at}`);
  }
});

test("files that are cut short or too long are refused", async (t) => {
  const attempt = await setUp(t);
  for (const part of ["tarindex", "zinfo", "json", "blob"] as const) {
    const whole = attempt.original[part];
    const lengths = [0, 1, 11, 12, 13, 100, 511, 512, 1023, 1024, 1152, 4096, whole.length >> 1, whole.length - 1];
    for (const length of lengths.filter((n) => n < whole.length)) {
      const outcome = await attempt.try({ [part]: whole.subarray(0, length) }, `${part} cut to ${length}`);
      // The JSON ends with a line feed that nobody misses.
      assert.equal(outcome, part === "json" && length === whole.length - 1 ? "right" : "refused", `${part} ${length}`);
    }
    const longer = Buffer.concat([whole, Buffer.alloc(1000, 0x20)]);
    assert.equal(await attempt.try({ [part]: longer }, `${part} too long`), part === "json" ? "right" : "refused");
  }
});

test("files of another layer", async (t) => {
  const attempt = await setUp(t);
  const fixture = await makeLayerFixture(t, { files: { small: 1000, big: 160_000, last: 9000 }, seed: 1 });
  const tarindex = await readFile(fixture.index.tarindexPath);
  const zinfo = await readFile(fixture.index.zinfoPath);
  const json = await readFile(fixture.index.jsonPath);
  assert.equal(tarindex.length, attempt.original.tarindex.length, "only the content tells them apart");
  assert.equal(zinfo.length, attempt.original.zinfo.length, "only the content tells them apart");
  for (const changed of [{ tarindex }, { zinfo }, { json }, { tarindex, zinfo }, { tarindex, zinfo, json }]) {
    const what = `${Object.keys(changed).join(", ")} of another layer`;
    assert.equal(await attempt.try(changed, what), "refused", what);
  }
  const { length } = attempt.original.blob;
  const blob = Buffer.concat([fixture.gz, Buffer.alloc(length)]).subarray(0, length);
  assert.equal(await attempt.try({ blob }, "blob of another layer, cut to size"), "unreadable");
});

test("a blob whose content is something else altogether", async (t) => {
  const attempt = await setUp(t);
  const { length } = attempt.original.blob;
  for (const blob of [Buffer.alloc(length), Buffer.alloc(length, 0xff), attempt.fixture.tar.subarray(0, length)]) {
    assert.equal(await attempt.try({ blob }, "blob of other content"), "unreadable");
  }
});
