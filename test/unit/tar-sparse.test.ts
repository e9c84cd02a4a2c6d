import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { isOcifsError, type OcifsErrorCode } from "../../src/base/errors.js";
import { plainEntry, readTar } from "../support/read-tar.js";
import { buildTar, type TarItem, tarHeader, writeNumber } from "../support/tar-builder.js";

function only(items: readonly (TarItem | Buffer)[]): Record<string, unknown> {
  const { entries } = readTar(buildTar(items));
  assert.equal(entries.length, 1);
  const [entry] = entries;
  assert.ok(entry);
  return plainEntry(entry);
}

function assertEntry(actual: Record<string, unknown>, expected: Record<string, unknown>): void {
  assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, actual[key]])), expected);
}

function refuses(tar: Uint8Array, code: OcifsErrorCode, message: RegExp): void {
  assert.throws(
    () => readTar(tar),
    (error) => isOcifsError(error, code) && message.test(error.message),
  );
}

describe("tar walker: sparse files", () => {
  function oldGnu(pieces: readonly [number, number][], realSize: number, data: number): Buffer {
    const blocks: Buffer[] = [
      tarHeader({
        path: "s",
        typeflag: "S",
        format: "gnu",
        headerSize: data,
        patch: (header) => {
          pieces.slice(0, 4).forEach(([offset, size], i) => {
            writeNumber(header, 386 + i * 24, 12, offset);
            writeNumber(header, 398 + i * 24, 12, size);
          });
          header[482] = pieces.length > 4 ? 1 : 0;
          writeNumber(header, 483, 12, realSize);
        },
      }),
    ];
    for (let at = 4; at < pieces.length; at += 21) {
      const block = Buffer.alloc(512);
      pieces.slice(at, at + 21).forEach(([offset, size], i) => {
        writeNumber(block, i * 24, 12, offset);
        writeNumber(block, 12 + i * 24, 12, size);
      });
      block[504] = pieces.length > at + 21 ? 1 : 0;
      blocks.push(block);
    }
    return Buffer.concat([...blocks, Buffer.alloc(Math.ceil(data / 512) * 512, 0x64)]);
  }

  it("reads the old GNU map, extension blocks included", () => {
    const pieces = Array.from({ length: 30 }, (_, i): [number, number] => [i * 8192, 4096]);
    const entry = only([oldGnu([...pieces, [300000, 0]], 300000, 30 * 4096)]);
    assertEntry(entry, {
      sizeBytes: 300000,
      dataOffset: 512 * 3,
      segments: pieces.map(([offset, sizeBytes], i) => ({ offset, sizeBytes, tarOffset: 1536 + i * 4096 })),
    });
  });

  it("reads PAX formats 0.0, 0.1 and 1.0", () => {
    const data = "d".repeat(1000);
    const segments = (at: number) => [
      { offset: 512, sizeBytes: 512, tarOffset: at },
      { offset: 2048, sizeBytes: 488, tarOffset: at + 512 },
    ];
    const list: [string, string][] = [
      ["GNU.sparse.size", "4000"],
      ["GNU.sparse.numblocks", "2"],
      ["GNU.sparse.offset", "512"],
      ["GNU.sparse.numbytes", "512"],
      ["GNU.sparse.offset", "2048"],
      ["GNU.sparse.numbytes", "488"],
    ];
    assertEntry(only([{ path: "s", data, pax: list }]), { path: "s", sizeBytes: 4000, segments: segments(1536) });
    const map = { "GNU.sparse.size": "4000", "GNU.sparse.name": "true/name", "GNU.sparse.map": "512,512,2048,488" };
    assertEntry(only([{ path: "GNUSparseFile.1/s", data, pax: map }]), {
      path: "true/name",
      sizeBytes: 4000,
      segments: segments(1536),
    });
    const one = {
      "GNU.sparse.major": "1",
      "GNU.sparse.minor": "0",
      "GNU.sparse.name": "s",
      "GNU.sparse.realsize": "4000",
    };
    const header = "2\n512\n512\n2048\n488\n".padEnd(512, "\0");
    assertEntry(only([{ path: "x", data: header + data, pax: one }]), { sizeBytes: 4000, segments: segments(2048) });
  });

  it("refuses maps that overlap, leave the file, do not add up or cannot be placed", () => {
    refuses(
      buildTar([
        oldGnu(
          [
            [0, 512],
            [256, 512],
          ],
          4096,
          1024,
        ),
      ]),
      "corrupt",
      /overlaps itself/,
    );
    refuses(buildTar([oldGnu([[4096, 512]], 4096, 512)]), "corrupt", /leaves the file/);
    refuses(buildTar([oldGnu([[0, 512]], 4096, 1024)]), "corrupt", /covers 512 bytes, the archive holds 1024/);
    refuses(
      buildTar([
        oldGnu(
          [
            [0, 100],
            [1024, 512],
          ],
          4096,
          612,
        ),
      ]),
      "unsupported",
      /whole 512-byte blocks/,
    );
    refuses(
      buildTar([{ path: "s", pax: { "GNU.sparse.major": "2", "GNU.sparse.minor": "0" } }]),
      "unsupported",
      /format 2\.0/,
    );
    refuses(buildTar([{ path: "s", typeflag: "S" }]), "unsupported", /star's format/);
    const endless = { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" };
    refuses(buildTar([{ path: "s", pax: endless, data: "9\n".repeat(256) }]), "corrupt", /leaves the file/);
    refuses(
      buildTar([{ path: "s", pax: endless, data: "9999\n".padEnd(512, "\0") }]),
      "corrupt",
      /does not end inside the entry/,
    );
    refuses(buildTar([{ path: "s", pax: endless, data: "z".repeat(512) }]), "corrupt", /sparse map/);
  });
});
