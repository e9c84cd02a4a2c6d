import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { Dispatcher } from "undici";
import { OcifsError } from "../../src/base/errors.js";
import { SpanIndex } from "../../src/gzip/span-index.js";
import { type CheckpointTable, checkZinfoTable } from "../../src/gzip/zinfo.js";
import { parseIndexManifest, serializeIndexManifest } from "../../src/index/manifest.js";
import { parseImageConfig } from "../../src/oci/config.js";
import { parseManifest } from "../../src/oci/manifest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { HttpResponse } from "../../src/registry/http-response.js";
import { bodyStartOf, rangeHeader } from "../../src/registry/range-response.js";
import { TransferStats } from "../../src/registry/transfer-stats.js";
import { paxRecords } from "../../src/tar/pax.js";
import { mutated } from "../support/mutations.js";

/** The value, or undefined for an OcifsError that is not our own fault; anything else is a failed test. */
function orRefusal<T>(call: () => T): T | undefined {
  try {
    return call();
  } catch (error) {
    assert.ok(error instanceof OcifsError && error.code !== "internal", String(error));
    assert.ok(error.message.length < 1000, "a message quotes little");
    return undefined;
  }
}

const digest = `sha256:${"5".repeat(64)}`;

describe("documents that were changed", () => {
  const descriptor = { mediaType: mediaTypes.ociLayerTar, digest, size: 17, urls: ["https://x.test/"] };
  const manifest = Buffer.from(
    JSON.stringify({ schemaVersion: 2, config: descriptor, layers: [descriptor, descriptor] }),
  );
  const index = Buffer.from(
    JSON.stringify({ schemaVersion: 2, manifests: [{ ...descriptor, platform: { os: "a", architecture: "b" } }] }),
  );
  const config = Buffer.from(
    JSON.stringify({ os: "a", architecture: "b", rootfs: { type: "layers", diff_ids: [digest] } }),
  );

  test("manifests, indexes and configs", () => {
    fc.assert(
      fc.property(mutated(manifest), mutated(index), mutated(config), (oneManifest, oneIndex, oneConfig) => {
        for (const bytes of [oneManifest, oneIndex]) {
          const found = orRefusal(() => parseManifest(bytes, "m"));
          const entries = found === undefined ? [] : found.kind === "index" ? found.manifests : found.layers;
          for (const { digest, sizeBytes } of entries) {
            assert.match(digest, /^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$/);
            assert.ok(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0);
          }
        }
        orRefusal(() => parseImageConfig(oneConfig, "c"));
      }),
      { numRuns: 2000 },
    );
  });

  const own = {
    version: 2,
    generator: "test",
    blob: { digest, sizeBytes: 10, encoding: "tar", mediaType: "x" },
    tar: { digest, sizeBytes: 10, entryCount: 3, endOffset: 10, endMarkerFound: true },
    whiteouts: "keep",
    tarindex: { digest, sizeBytes: 4096 },
    impliedDirectories: [40, 44],
    danglingLinks: [{ path: "YQ==", target: "YmI=" }],
    spans: { sizeBytes: 4, digests: Array(3).fill("ab".repeat(32)) },
  };

  test("an index's JSON: what is accepted is written and read again the same", () => {
    const text = Buffer.from(JSON.stringify(own));
    assert.equal(parseIndexManifest(text.toString(), "i").tar.entryCount, 3);
    const anyField = fc
      .tuple(fc.constantFrom(...Object.keys(own)), fc.jsonValue())
      .map(([key, value]) => Buffer.from(JSON.stringify({ ...own, [key]: value })));
    fc.assert(
      fc.property(fc.oneof(mutated(text), anyField), (bytes) => {
        const found = orRefusal(() => parseIndexManifest(bytes.toString("utf8"), "i"));
        if (found === undefined) return;
        assert.deepEqual(parseIndexManifest(serializeIndexManifest(found), "i"), found);
        assert.ok(found.tar.endOffset <= found.tar.sizeBytes);
      }),
      { numRuns: 3000 },
    );
  });
});

describe("PAX records", () => {
  const key = fc.stringMatching(/^[A-Za-z.]{1,12}$/);
  const value = fc.uint8Array({ minLength: 1, maxLength: 40 });

  function encode(key: string, value: Uint8Array): Buffer {
    const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from("\n")]);
    let length = rest.length + 1;
    while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
    return Buffer.concat([Buffer.from(String(length)), rest]);
  }

  test("come back as they were written, whatever bytes they hold", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(key, value), { maxLength: 6 }), fc.nat(20), (records, zeros) => {
        const payload = Buffer.concat([...records.map(([k, v]) => encode(k, v)), Buffer.alloc(zeros)]);
        const found = [...paxRecords(payload, "tar")].map((record) => [record.key, new Uint8Array(record.value)]);
        assert.deepEqual(found, records);
      }),
    );
  });

  test("are bytes of the payload, or an error, when they were changed", () => {
    const payload = Buffer.concat([
      encode("path", Buffer.from("a/b")),
      encode("SCHILY.xattr.user.k", Buffer.from([0, 255])),
    ]);
    fc.assert(
      fc.property(fc.oneof(mutated(payload), fc.uint8Array({ maxLength: 60 }).map(Buffer.from)), (bytes) => {
        let size = 0;
        orRefusal(() => {
          for (const record of paxRecords(bytes, "tar")) {
            // "1 k=\n" is the least around them.
            size += record.key.length + record.value.length + 4;
            assert.ok(record.key.length > 0 && size <= bytes.length);
          }
        });
      }),
      { numRuns: 3000 },
    );
  });
});

describe("answers to range requests", () => {
  const wanted = { start: 100, end: 200, sizeBytes: 1000 };

  function answer(statusCode: number, headers: Record<string, string>): HttpResponse {
    const data = { statusCode, headers, body: Readable.from([]) } as unknown as Dispatcher.ResponseData;
    const context = { what: "blob", signal: new AbortController().signal, stats: new TransferStats() };
    return new HttpResponse(data, { ...context, url: new URL("http://r.test/") });
  }

  test("only the range asked for is taken for it", () => {
    assert.equal(rangeHeader(wanted), "bytes=100-199");
    const number = fc.constantFrom(
      "0",
      "99",
      "100",
      "101",
      "199",
      "200",
      "999",
      "1000",
      "1001",
      "*",
      "-1",
      "1e3",
      "0x64",
      " ",
      "",
    );
    const range = fc.oneof(
      fc
        .tuple(fc.constantFrom("bytes ", "Bytes ", "bytes=", ""), number, number, number)
        .map(([unit, a, b, c]) => `${unit}${a}-${b}/${c}`),
      fc.string({ maxLength: 30 }),
    );
    const headers = fc.record(
      {
        "content-range": range,
        "content-length": fc.oneof(number, fc.constant("100")),
        "content-encoding": fc.constantFrom("identity", "gzip", ""),
        "content-type": fc.constantFrom("application/octet-stream", "multipart/byteranges; boundary=x"),
      },
      { requiredKeys: [] },
    );
    let taken = 0;
    fc.assert(
      fc.property(fc.constantFrom(200, 206, 206, 206, 204, 416), headers, (status, fields) => {
        const start = orRefusal(() => bodyStartOf(answer(status, fields), wanted, "blob"));
        if (start === undefined) return;
        taken++;
        assert.equal(start, status === 206 ? 100 : 0);
        if (status === 206) assert.match(fields["content-range"] ?? "", /^\s*bytes 100-199\/1000\s*$/i);
        else assert.equal(fields["content-length"], "1000");
      }),
      { numRuns: 5000 },
    );
    assert.equal(bodyStartOf(answer(206, { "content-range": "bytes 100-199/1000" }), wanted, "blob"), 100);
    assert.ok(taken > 0, "nothing was ever accepted");
  });
});

describe("checkpoint tables", () => {
  const blobSizeBytes = 5000;
  const record = fc.record({
    in: fc.oneof(fc.nat(300), fc.nat(2 ** 40)),
    out: fc.oneof(fc.nat(3000), fc.nat(2 ** 40)),
    bits: fc.integer({ min: 0, max: 8 }),
  });
  /** Steps, so that most tables are good, with a record of any kind put in now and then. */
  const table = fc
    .tuple(fc.array(record, { minLength: 1, maxLength: 12 }), fc.option(fc.tuple(fc.nat(11), record), { freq: 3 }))
    .map(([steps, odd]): CheckpointTable => {
      const found = {
        in: new Float64Array(steps.length),
        out: new Float64Array(steps.length),
        bits: new Uint8Array(steps.length),
      };
      let at = { in: 10, out: 0, bits: 0 };
      for (const [i, step] of steps.entries()) {
        if (i > 0) at = { in: at.in + 1 + (step.in % 300), out: at.out + (step.out % 3000), bits: step.bits % 8 };
        const here = odd !== null && odd[0] === i ? odd[1] : at;
        found.in[i] = here.in;
        found.out[i] = here.out;
        found.bits[i] = here.bits;
      }
      return found;
    });

  test("spans of an accepted table cover the layer once, inside the blob", () => {
    let accepted = 0;
    fc.assert(
      fc.property(table, fc.nat(40_000), fc.boolean(), (checkpoints, uncompressedSizeBytes, streamEnds) => {
        const index = orRefusal(() => {
          checkZinfoTable(checkpoints, "z", blobSizeBytes);
          return new SpanIndex(checkpoints, { blobSizeBytes, uncompressedSizeBytes, streamEnds });
        });
        if (index === undefined) return;
        accepted++;
        assert.ok(index.spanCount >= 1 && index.spanCount <= checkpoints.in.length);
        let at = 0;
        for (let i = 0; i < index.spanCount; i++) {
          const span = index.span(i);
          assert.equal(index.outStart(i), at);
          assert.ok(span.begin >= 0 && span.begin <= span.end && span.end <= blobSizeBytes && span.bits <= 7);
          assert.ok(
            span.outSizeBytes > 0 || (index.spanCount === 1 && uncompressedSizeBytes === 0),
            `span ${i} is empty`,
          );
          if (span.outSizeBytes > 0) {
            assert.equal(index.spanAt(at), i);
            assert.equal(index.spanAt(at + span.outSizeBytes - 1), i);
          }
          at += span.outSizeBytes;
        }
        assert.equal(at, uncompressedSizeBytes);
      }),
      { numRuns: 5000 },
    );
    assert.ok(accepted > 1000, `only ${accepted} tables were accepted`);
  });
});
