import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { gzipSync } from "node:zlib";
import { isOcifsError, OcifsError, type OcifsErrorCode } from "../../src/base/errors.js";
import type { BlobSource } from "../../src/blob/blob-source.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import { openZinfo } from "../../src/gzip/zinfo.js";
import { type CreateLayerIndexOptions, createLayerIndex, type IndexProgress } from "../../src/index/create.js";
import { loadIndex } from "../../src/index/load.js";
import { parseIndexManifest, serializeIndexManifest } from "../../src/index/manifest.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { memoryBlob } from "../support/blob-sources.js";
import { tarindexOfTar } from "../support/layers.js";
import { buildTar, type TarItem } from "../support/tar-builder.js";

const tar = Buffer.concat([
  buildTar([
    { path: "bin/tool", data: Buffer.alloc(300000, "tool") },
    ...Array.from(
      { length: 500 },
      (_, i): TarItem => ({ path: `f/${i}`, data: createHash("sha512").update(`${i}`).digest() }),
    ),
  ]),
  Buffer.alloc(4096),
]);
const gz = gzipSync(tar);
const diffId = digestOfBytes(tar);

describe("index creation", () => {
  let base = "";
  let runs = 0;
  before(async () => {
    base = await mkdtemp(join(tmpdir(), "ocifs-create-"));
  });
  after(() => rm(base, { recursive: true }));

  const create = (source: BlobSource, options: Partial<CreateLayerIndexOptions> = {}) =>
    createLayerIndex({
      source,
      output: { directory: join(base, String(runs++)) },
      spanSizeBytes: 64 << 10,
      ...options,
    });

  /** The error, after checking that the directory holds nothing. */
  async function failure(
    source: BlobSource,
    code: OcifsErrorCode,
    options: Partial<CreateLayerIndexOptions> = {},
  ): Promise<OcifsError> {
    const directory = join(base, String(runs++));
    let caught: unknown;
    try {
      await create(source, { output: { directory }, ...options });
    } catch (error) {
      caught = error;
    }
    assert.ok(isOcifsError(caught, code), `want ${code}, got ${String(caught)}`);
    assert.deepEqual(await readdir(directory), []);
    return caught;
  }

  const spanDigests = (bytes: Buffer) =>
    Array.from({ length: Math.ceil(bytes.length / 65536) }, (_, i) =>
      createHash("sha256")
        .update(bytes.subarray(i * 65536, (i + 1) * 65536))
        .digest("hex"),
    );

  /** What the JSON must say: digests of the tar's bytes from one checkpoint of the zinfo to the next. */
  const digestsBetweenCheckpoints = async (path: string) => {
    await using zinfo = await openZinfo(path, { blobSizeBytes: gz.length });
    assert.ok(zinfo.checkpointCount > 2);
    return Array.from(zinfo.out, (out, i) =>
      createHash("sha256")
        .update(tar.subarray(out, zinfo.out[i + 1] ?? tar.length))
        .digest("hex"),
    );
  };

  const nidsOf = async (path: string, ...names: string[]) => {
    await using tree = await ErofsTree.open(path);
    const { rootNid } = tree.info;
    return names.map((name) => (name === "" ? rootNid : (tree.lookup(rootNid, Buffer.from(name))?.nid ?? 0)));
  };

  it("writes the three files of a gzip layer", async () => {
    const progress: IndexProgress[] = [];
    const created = await create(memoryBlob(gz, { chunkBytes: 1000 }), {
      expectedDiffId: diffId,
      mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      onProgress: (p) => progress.push(p),
    });
    const stem = digestOfBytes(gz).replace(":", "-");
    assert.ok(created.zinfoPath);
    const files = [created.jsonPath, created.tarindexPath, created.zinfoPath];
    assert.deepEqual(
      files.map((path) => path.split("/").at(-1)),
      [`${stem}.json`, `${stem}.tarindex`, `${stem}.zinfo`],
    );
    assert.deepEqual((await readdir(join(created.jsonPath, ".."))).length, 3);
    const tarindex = await readFile(created.tarindexPath);
    const zinfo = await readFile(created.zinfoPath);
    assert.deepEqual(created.manifest, {
      version: 2,
      generator: "ocifs 0.1.0",
      blob: {
        digest: digestOfBytes(gz),
        sizeBytes: gz.length,
        encoding: "gzip",
        mediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
      },
      tar: {
        digest: diffId,
        sizeBytes: tar.length,
        entryCount: 501,
        endOffset: tar.length - 4096,
        endMarkerFound: true,
      },
      whiteouts: "keep",
      tarindex: { digest: digestOfBytes(tarindex), sizeBytes: tarindex.length },
      impliedDirectories: await nidsOf(created.tarindexPath, "", "bin", "f"),
      danglingLinks: [],
      zinfo: { digest: digestOfBytes(zinfo), sizeBytes: zinfo.length },
      spans: { sizeBytes: 65536, digests: await digestsBetweenCheckpoints(created.zinfoPath) },
    });
    assert.equal(created.tarTrailingBytes, 4096);
    assert.equal(await readFile(created.jsonPath, "utf8"), serializeIndexManifest(created.manifest));
    assert.deepEqual(progress.at(-1), { blobBytes: gz.length, tarBytes: tar.length, entryCount: 501 });
    const uuidless = Buffer.from(tarindex);
    uuidless.fill(0, 1024 + 48, 1024 + 64).fill(0, 1028, 1032);
    assert.deepEqual(uuidless, Buffer.from(tarindexOfTar(tar)).fill(0, 1028, 1032));
  });

  it("gives the same tarindex for a plain tar, and no zinfo", async () => {
    const plain = await create(memoryBlob(tar));
    const zipped = await create(memoryBlob(gz));
    assert.equal(plain.zinfoPath, undefined);
    assert.equal(plain.manifest.zinfo, undefined);
    assert.equal(plain.manifest.blob.encoding, "tar");
    assert.deepEqual(plain.manifest.spans.digests, spanDigests(tar));
    assert.equal((await readdir(join(plain.jsonPath, ".."))).length, 2);
    assert.deepEqual(await readFile(plain.tarindexPath), await readFile(zipped.tarindexPath));
  });

  it("indexes layers of any small size", async () => {
    const empty = await create(memoryBlob(gzipSync(Buffer.alloc(1024))));
    assert.equal(empty.manifest.tar.entryCount, 0);
    const nothing = await create(memoryBlob(gzipSync(Buffer.alloc(0))));
    assert.equal(nothing.manifest.tar.sizeBytes, 0);
    assert.equal(nothing.manifest.tar.endMarkerFound, false);
    const none = await create(memoryBlob(Buffer.alloc(0)));
    assert.deepEqual(none.manifest.spans.digests, []);
  });

  it("keeps memory in bounds for a layer that inflates a thousandfold", async () => {
    const zeros = gzipSync(buildTar([{ path: "z", data: Buffer.alloc(64 << 20) }]));
    const created = await create(memoryBlob(zeros));
    assert.equal(created.manifest.tar.sizeBytes, (64 << 20) + 1536);
  });

  it("refuses another blob, size or diffID, and leaves nothing", async () => {
    const other = digestOfBytes(Buffer.from("other"));
    const wrongBlob = await failure(memoryBlob(gz, { digest: other }), "mismatch");
    assert.match(wrongBlob.message, /digest is sha256:.*, want sha256:/);
    const wrongSize = await failure(memoryBlob(gz, { sizeBytes: gz.length + 1 }), "mismatch");
    assert.match(wrongSize.message, new RegExp(`got ${gz.length} bytes, want ${gz.length + 1}`));
    const wrongDiffId = await failure(memoryBlob(gz), "mismatch", { expectedDiffId: other });
    assert.match(wrongDiffId.message, /the image config wants/);
  });

  it("says that the bytes are wrong before it says what is wrong with them", async () => {
    const damaged = Buffer.from(gz);
    damaged.fill(0xff, 5000, 5100);
    const error = await failure(memoryBlob(damaged, { digest: digestOfBytes(gz) }), "mismatch");
    assert.ok(isOcifsError(error.cause, "corrupt") || isOcifsError(error.cause, "mismatch"));
    // The same bytes under their own digest are just a bad layer.
    await failure(memoryBlob(damaged), "corrupt");
    const badTar = gzipSync(Buffer.alloc(2048, 0x41));
    assert.match((await failure(memoryBlob(badTar), "corrupt")).message, /wrong checksum/);
    await failure(memoryBlob(gz.subarray(0, gz.length - 20)), "corrupt");
  });

  it("refuses damaged zstd by name, and span sizes that make no sense", async () => {
    assert.match((await failure(memoryBlob(Buffer.from("28b52ffdff000000", "hex")), "corrupt")).message, /zstd/);
    await assert.rejects(create(memoryBlob(gz), { spanSizeBytes: 100 }), (e) => isOcifsError(e, "usage"));
  });

  it("stops when it is cancelled or the source fails, and leaves nothing", async () => {
    const controller = new AbortController();
    const onProgress = () => controller.abort();
    await failure(memoryBlob(gz, { chunkBytes: 1000 }), "aborted", { signal: controller.signal, onProgress });
    const failing: BlobSource = {
      ...memoryBlob(gz),
      async *fetchRange() {
        yield gz.subarray(0, 1000);
        await Promise.resolve();
        throw new OcifsError("network", "connection reset");
      },
    };
    assert.equal((await failure(failing, "network")).message, "connection reset");
  });

  it("names the operation when the files cannot be written", async () => {
    const file = join(base, "file");
    await writeFile(file, "");
    const blocked = create(memoryBlob(gz), { output: { directory: join(file, "below") } });
    await assert.rejects(
      blocked,
      (error) => isOcifsError(error, "io") && /^index create blob in memory: ENOTDIR/.test(error.message),
    );
  });

  it("loads what it wrote, and refuses files that do not belong together", async () => {
    const created = await create(memoryBlob(gz));
    assert.ok(created.zinfoPath);
    const { tarindexPath, zinfoPath, jsonPath } = created;
    const loaded = await loadIndex({ tarindexPath, zinfoPath, jsonPath, blobDigest: digestOfBytes(gz) });
    assert.equal(loaded.verified, true);
    assert.deepEqual(loaded.manifest, created.manifest);
    assert.equal((await loadIndex({ tarindexPath, zinfoPath })).verified, false);

    const rejects = (options: Parameters<typeof loadIndex>[0], code: OcifsErrorCode, message: RegExp) =>
      assert.rejects(loadIndex(options), (error) => isOcifsError(error, code) && message.test(error.message));
    await rejects({ tarindexPath, zinfoPath, jsonPath, blobDigest: digestOfBytes(tar) }, "mismatch", /is of blob/);
    await rejects({ tarindexPath, jsonPath }, "mismatch", /want its zinfo too/);
    await rejects({ tarindexPath: zinfoPath, zinfoPath, jsonPath }, "mismatch", /bytes, its JSON wants/);
    await rejects({ tarindexPath: join(base, "none"), zinfoPath }, "not-found", /cannot open/);
    const changed = await readFile(tarindexPath);
    changed[2000] = (changed[2000] ?? 0) ^ 1;
    await writeFile(tarindexPath, changed);
    await rejects({ tarindexPath, zinfoPath, jsonPath }, "mismatch", /digest sha256:.*, its JSON wants/);
  });
});

describe("index JSON from outside", () => {
  const good = {
    version: 2,
    generator: "x",
    blob: { digest: diffId, sizeBytes: 1, encoding: "gzip" },
    tar: { digest: diffId, sizeBytes: 10, entryCount: 1, endOffset: 10, endMarkerFound: true },
    whiteouts: "keep",
    tarindex: { digest: diffId, sizeBytes: 4096 },
    impliedDirectories: [40, 44],
    danglingLinks: [{ path: "YS9i", target: "/w==" }],
    zinfo: { digest: diffId, sizeBytes: 12 },
    spans: { sizeBytes: 1, digests: ["0".repeat(64)] },
  };

  it("is read field by field", () => {
    const read = {
      ...good,
      danglingLinks: [{ path: new Uint8Array(Buffer.from("a/b")), target: Uint8Array.of(0xff) }],
    };
    assert.deepEqual(parseIndexManifest(JSON.stringify(good), "here"), read);
    assert.deepEqual(parseIndexManifest(JSON.stringify({ ...good, more: 1 }), "here"), read);
    const text = serializeIndexManifest(parseIndexManifest(JSON.stringify(good), "here"));
    assert.deepEqual(parseIndexManifest(text, "here"), read);
  });

  it("is refused with the name of the field", () => {
    const bad = (change: object, message: RegExp, code: OcifsErrorCode = "corrupt") =>
      assert.throws(
        () => parseIndexManifest(JSON.stringify({ ...good, ...change }), "here.json"),
        (error) => isOcifsError(error, code) && message.test(error.message) && error.message.includes("here.json"),
      );
    bad({ version: 1 }, /format version 1, want 2/, "unsupported");
    bad({ impliedDirectories: undefined }, /impliedDirectories is not a list/);
    bad({ impliedDirectories: [1, -1] }, /impliedDirectories\[1\] is not a whole number/);
    bad({ danglingLinks: {} }, /danglingLinks is not a list/);
    bad({ danglingLinks: [1] }, /danglingLinks\[0\]\. is not an object/);
    bad({ danglingLinks: [{ path: "YQ==", target: "" }] }, /danglingLinks\[0\]\.target is not base64/);
    bad({ danglingLinks: [{ path: "YQ", target: "YQ==" }] }, /danglingLinks\[0\]\.path is not base64/);
    bad({ blob: [] }, /blob\. is not an object/);
    bad({ blob: { ...good.blob, digest: "sha256:../../etc" } }, /blob\.digest is no digest/);
    bad({ blob: { ...good.blob, encoding: "lz4" } }, /blob\.encoding is none of gzip, tar, zstd/);
    bad({ blob: { ...good.blob, encoding: "tar" } }, /zinfo is present/);
    bad({ zinfo: undefined }, /zinfo is missing/);
    bad({ tar: { ...good.tar, sizeBytes: -1 } }, /tar\.sizeBytes is not a whole number/);
    bad({ tar: { ...good.tar, endOffset: 11 } }, /tar\.endOffset/);
    bad({ tar: { ...good.tar, endMarkerFound: 1 } }, /tar\.endMarkerFound/);
    bad({ tarindex: { ...good.tarindex, sizeBytes: 2 ** 60 } }, /tarindex\.sizeBytes/);
    bad({ spans: { sizeBytes: 1, digests: ["zz"] } }, /spans\.digests\[0\] is not 64 hex digits/);
    bad({ spans: { sizeBytes: 1, digests: {} } }, /spans\.digests/);
    for (const text of ["", "null", "[]", "{"]) {
      assert.throws(
        () => parseIndexManifest(text, "here.json"),
        (error) => isOcifsError(error, "corrupt"),
      );
    }
  });
});
