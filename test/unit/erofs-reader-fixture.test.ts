import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { gunzipSync } from "node:zlib";
import { isOcifsError } from "../../src/base/errors.js";
import { resolvePath } from "../../src/erofs/path-walk.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import { sharedFixture } from "../support/fixtures.js";
import { MemoryDevice } from "../support/memory-device.js";
import { type ListedEntry, listErofs } from "../support/tree-listing.js";

const tarindexPath = sharedFixture("erofs-utils-1.9.3/layer.tarindex");

interface ExpectedEntry {
  path: string;
  type: string;
  mode: string;
  uid: number;
  gid: number;
  mtime_ns: number;
  nlink?: number;
  size?: number;
  sha256?: string;
  target?: string;
  rdev?: string;
  xattrs?: Record<string, string>;
}

/** Text decoded with surrogateescape (a lone U+DC80..U+DCFF is one byte) as Latin-1. */
function toLatin1(text: string): string {
  const bytes: Buffer[] = [];
  for (const c of text) {
    const code = c.codePointAt(0) ?? 0;
    bytes.push(code >= 0xdc80 && code <= 0xdcff ? Buffer.of(code & 0xff) : Buffer.from(c));
  }
  return Buffer.concat(bytes).toString("latin1");
}

function listed(e: ExpectedEntry): ListedEntry {
  const xattrs: Record<string, string> = {};
  for (const [name, value] of Object.entries(e.xattrs ?? {})) {
    xattrs[toLatin1(name)] = Buffer.from(value, "base64").toString("latin1");
  }
  const entry: ListedEntry = {
    path: toLatin1(e.path),
    type: e.type === "dir" ? "directory" : e.type,
    mode: Number(e.mode),
    uid: e.uid,
    gid: e.gid,
    mtimeNs: String(e.mtime_ns),
    xattrs,
  };
  if (e.nlink !== undefined) entry.nlink = e.nlink;
  if (e.size !== undefined) entry.size = e.size;
  if (e.sha256 !== undefined) entry.sha256 = e.sha256;
  if (e.target !== undefined) entry.target = toLatin1(e.target);
  if (e.rdev !== undefined) entry.rdev = e.rdev;
  return entry;
}

/** JSON.parse with mtime_ns, which exceeds 2^53, kept as text. */
function parseLine(line: string): ExpectedEntry {
  return JSON.parse(line.replace(/"mtime_ns": (-?\d+)/, '"mtime_ns": "$1"')) as ExpectedEntry;
}

describe("a tarindex of erofs-utils 1.9.3", () => {
  let tree: ErofsTree;
  let device: MemoryDevice;
  let scratch: string;

  before(async () => {
    tree = await ErofsTree.open(tarindexPath);
    device = new MemoryDevice(gunzipSync(await readFile(sharedFixture("erofs-utils-1.9.3/layer.tar.gz"))));
    scratch = await mkdtemp(join(tmpdir(), "ocifs-erofs-"));
  });
  after(async () => {
    await rm(scratch, { recursive: true }); // first: it must go also when the image did not open
    await tree[Symbol.asyncDispose]();
  });

  it("gives every entry, attribute, xattr and byte of the layer", async () => {
    const lines = (await readFile(sharedFixture("erofs-utils-1.9.3/layer.expected.jsonl"), "utf8")).trim().split("\n");
    const expected = lines.map((line) => listed(parseLine(line)));
    const got = await listErofs(tree, [device]);
    assert.equal(got.length, expected.length);
    const wanted = new Map(expected.map((e) => [e.path, e]));
    for (const entry of got) assert.deepEqual(entry, wanted.get(entry.path));
  });

  it("describes itself", () => {
    const { devices, ...info } = tree.info;
    assert.deepEqual(info, {
      rootNid: 40,
      inodeCount: 240,
      blockSizeBytes: 512,
      sizeBytes: 30208,
      primaryBlocks: 59,
    });
    assert.deepEqual(devices, [{ tag: new Uint8Array(0), blocks: 23006, uniaddr: 59 }]);
  });

  it("finds every entry of every directory by name, and none beside them", () => {
    let looked = 0;
    for (const { attr } of tree.walk()) {
      if ((attr.mode & 0o170000) !== 0o040000) continue;
      const entries = [...tree.entries(attr.nid)];
      const names = new Set(entries.map((e) => Buffer.from(e.name).toString("latin1")));
      for (const entry of entries) {
        assert.deepEqual(tree.lookup(attr.nid, entry.name), { nid: entry.nid, type: entry.type });
        const longer = Buffer.concat([entry.name, Buffer.of(1)]);
        if (longer.length <= 255) assert.equal(tree.lookup(attr.nid, longer), null);
        else
          assert.throws(
            () => tree.lookup(attr.nid, longer),
            (e) => isOcifsError(e, "usage"),
          );
        const shorter = entry.name.subarray(0, -1);
        const exists = names.has(Buffer.from(shorter).toString("latin1"));
        assert.equal(tree.lookup(attr.nid, shorter) !== null, exists);
        looked++;
      }
      assert.deepEqual(tree.lookup(attr.nid, Buffer.from(".")), { nid: attr.nid, type: 2 });
    }
    assert.equal(looked, 240);
  });

  it("continues a directory at any cookie, for any page size", () => {
    const many = resolvePath(tree, Buffer.from("/many")).nid;
    const whole = tree.image.readdir(many, 0, 1000);
    assert.equal(whole.done, true);
    assert.ok(whole.entries.length > 100);
    for (const pageSize of [1, 2, 7, whole.entries.length]) {
      const names: Uint8Array[] = [];
      for (let cookie = 0, done = false; !done; ) {
        const page = tree.image.readdir(many, cookie, pageSize);
        assert.ok(page.entries.length <= pageSize);
        names.push(...page.entries.map((e) => e.name));
        ({ cookie, done } = page);
      }
      assert.deepEqual(
        names,
        whole.entries.map((e) => e.name),
      );
    }
    assert.deepEqual(tree.image.readdir(many, whole.cookie, 10), { entries: [], cookie: whole.cookie, done: true });
  });

  it("reads any range of a file as that part of the whole", async () => {
    const data = [...tree.walk()].find(({ attr }) => attr.sizeBytes > 1 << 20);
    assert.ok(data);
    const { nid, sizeBytes } = data.attr;
    const pieces: Uint8Array[] = [];
    for await (const piece of tree.readFile(nid, [device])) pieces.push(piece);
    const whole = Buffer.concat(pieces);
    assert.equal(whole.length, sizeBytes);
    for (const [offset, length] of [
      [0, 1],
      [511, 2],
      [sizeBytes - 1, 10],
      [sizeBytes, 1],
      [sizeBytes + 5, 1],
      [100, 70000],
    ] as const) {
      const part = await tree.read(nid, offset, length, [device]);
      assert.deepEqual(Buffer.from(part), whole.subarray(offset, offset + length));
    }
  });

  it("refuses content when a device is missing or too short", async () => {
    const nid = resolvePath(tree, Buffer.from("/big-uid")).nid;
    await assert.rejects(tree.read(nid, 0, 1, []), (e) => isOcifsError(e, "mismatch"));
    await assert.rejects(tree.read(nid, 0, 1, [new MemoryDevice(new Uint8Array(512))]), (e) =>
      isOcifsError(e, "mismatch"),
    );
  });

  it("refuses wrong types and wrong numbers", () => {
    const file = resolvePath(tree, Buffer.from("/big-uid")).nid;
    assert.throws(
      () => tree.image.readdir(file, 0, 1),
      (e) => isOcifsError(e, "usage"),
    );
    assert.throws(
      () => tree.lookup(file, Buffer.from("x")),
      (e) => isOcifsError(e, "usage"),
    );
    assert.throws(
      () => tree.readlink(file),
      (e) => isOcifsError(e, "usage"),
    );
    assert.throws(
      () => tree.image.mapRange(tree.info.rootNid, 0, 1),
      (e) => isOcifsError(e, "usage"),
    );
    assert.throws(
      () => tree.stat(1 << 30),
      (e) => isOcifsError(e, "corrupt"),
    );
    assert.throws(
      () => tree.stat(-1),
      (e) => isOcifsError(e, "usage"),
    );
    assert.throws(
      () => tree.stat(0.5),
      (e) => isOcifsError(e, "usage"),
    );
    assert.throws(
      () => tree.image.readIndex(30200, 9),
      (e) => isOcifsError(e, "usage"),
    );
    assert.equal(tree.image.getxattr(file, Buffer.from("user.none")), null);
  });

  it("refuses a damaged, truncated or closed image by name", async () => {
    const bytes = await readFile(tarindexPath);
    const cases: [string, (b: Buffer) => Buffer, "corrupt" | "unsupported", RegExp][] = [
      ["magic", (b) => b.fill(0, 1024, 1025), "corrupt", /magic/],
      ["checksum", (b) => b.fill(1, 1024 + 64, 1024 + 65), "corrupt", /checksum/],
      ["short", (b) => b.subarray(0, b.length - 1), "corrupt", /truncated/],
      ["empty", () => Buffer.alloc(0), "corrupt", /too short/],
      [
        "features",
        (b) => {
          b.writeUInt32LE(0x6, 1024 + 8);
          b.writeUInt32LE(0x8 | 0x2 | 0x400, 1024 + 80);
          return b;
        },
        "unsupported",
        /COMPR_CFGS\/BIG_PCLUSTER, 0x400/,
      ],
    ];
    for (const [name, change, code, text] of cases) {
      const path = join(scratch, name);
      await writeFile(path, change(Buffer.from(bytes)));
      await assert.rejects(ErofsTree.open(path), (e) => isOcifsError(e, code) && text.test(e.message), name);
    }
    await assert.rejects(ErofsTree.open(join(scratch, "absent")), (e) => isOcifsError(e, "io"));
    const closed = await ErofsTree.open(tarindexPath);
    await closed[Symbol.asyncDispose]();
    assert.throws(
      () => closed.stat(40),
      (e) => isOcifsError(e, "aborted"),
    );
  });
});
