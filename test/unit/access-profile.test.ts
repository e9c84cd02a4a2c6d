import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { OcifsError } from "../../src/base/errors.js";
import { limits } from "../../src/base/limits.js";
import { parseProfile, profilePathOf, serializeProfile } from "../../src/index/profile.js";
import { AccessRecorder } from "../../src/layer/access-recorder.js";
import { throwsWith } from "../support/errors.js";
import { mutated } from "../support/mutations.js";

const blob = `sha256:${"ab".repeat(32)}` as const;
const tarBytes = 5_000_000;
const reads = [
  { atMs: 0, offset: 1_048_576, length: 1_048_576 },
  { atMs: 12, offset: 0, length: 1_048_576 },
  { atMs: 12, offset: 4_194_304, length: 805_696 },
];
const golden = `{
 "version": 1,
 "blob": "${blob}",
 "tarBytes": 5000000,
 "reads": [
  [0, 1048576, 1048576],
  [12, 0, 1048576],
  [12, 4194304, 805696]
 ]
}
`;
const parse = (text: string) => parseProfile(Buffer.from(text), { blob, tarBytes }, "a.profile");

test("golden bytes of an access profile", () => {
  assert.equal(serializeProfile({ blob, tarBytes, reads }), golden);
  assert.deepEqual(parse(golden), { blob, tarBytes, reads });
  assert.deepEqual(parse(serializeProfile({ blob, tarBytes, reads: [] })).reads, []);
  assert.equal(profilePathOf("/a/sha256-ab.tarindex"), "/a/sha256-ab.profile");
  assert.equal(profilePathOf("/a/other"), "/a/other.profile");
});

test("a profile of another blob, size or version, or with reads outside, is refused", () => {
  const change = (from: string, to: string) => golden.replace(from, to);
  throwsWith(() => parse(change("ab".repeat(32), "cd".repeat(32))), "mismatch");
  throwsWith(() => parse(change("5000000", "4999999")), "mismatch");
  throwsWith(() => parse(change('"version": 1', '"version": 2')), "unsupported");
  throwsWith(() => parse(change("805696", "805697")), "corrupt");
  throwsWith(() => parse(change("[0, 1048576, 1048576]", "[0, 1048576, 0]")), "corrupt");
  throwsWith(() => parse(change("[0, 1048576, 1048576]", "[0, -1, 5]")), "corrupt");
  throwsWith(() => parse(change("[0, 1048576, 1048576]", "[0, 1]")), "corrupt");
  throwsWith(() => parse(golden.slice(0, -3)), "corrupt");
});

test("a profile of more reads than the limit is refused, and the largest allowed one fits its file", () => {
  const many = (count: number) =>
    Array.from({ length: count }, (_, i) => ({ atMs: 9_999, offset: 16 * 2 ** 40 - 2 ** 21 + i, length: 1 << 20 }));
  const of = (count: number) => serializeProfile({ blob, tarBytes: limits.layerTarBytes, reads: many(count) });
  const parseLarge = (text: string) =>
    parseProfile(Buffer.from(text), { blob, tarBytes: limits.layerTarBytes }, "a.profile");
  assert.equal(parseLarge(of(limits.profileReads)).reads.length, limits.profileReads);
  assert.ok(of(limits.profileReads).length <= limits.profileBytes);
  throwsWith(() => parseLarge(of(limits.profileReads + 1)), "limit");
});

test("a damaged profile is an error of one short sentence, or a profile", () => {
  fc.assert(
    fc.property(mutated(Buffer.from(golden)), (bytes) => {
      try {
        for (const read of parseProfile(bytes, { blob, tarBytes }, "a.profile").reads) {
          assert.ok(read.length > 0 && read.offset >= 0 && read.offset + read.length <= tarBytes);
        }
      } catch (error) {
        assert.ok(error instanceof OcifsError && error.code !== "internal", String(error));
        assert.ok(error.message.length < 1000);
      }
    }),
    { numRuns: 2000 },
  );
});

test("a recorder has each span once, in order, over all layers, for its window from the first miss on", () => {
  let nowMs = 77_000;
  const recorder = new AccessRecorder(2, 10_000, () => nowMs);
  recorder.note(1, { first: 5, last: 6 });
  nowMs += 20.4;
  recorder.note(0, { first: 9, last: 9 });
  recorder.note(1, { first: 4, last: 7 });
  nowMs += 10_000;
  recorder.note(0, { first: 1, last: 1 });
  assert.deepEqual(recorder.accessesOf(0), [{ atMs: 20, span: 9 }]);
  assert.deepEqual(recorder.accessesOf(1), [
    { atMs: 0, span: 5 },
    { atMs: 0, span: 6 },
    { atMs: 20, span: 4 },
    { atMs: 20, span: 7 },
  ]);
});

test("a recorder keeps no more spans of a layer than a profile may have", () => {
  const recorder = new AccessRecorder(1, 10_000, () => 0);
  recorder.note(0, { first: 0, last: 10 * limits.profileReads });
  assert.equal(recorder.accessesOf(0).length, limits.profileReads);
});
