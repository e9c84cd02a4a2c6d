import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { isOcifsError, type OcifsErrorCode } from "../../src/base/errors.js";
import { resolvePath } from "../../src/erofs/path-walk.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import { buildErofsImage, dir, emptyFile, type ImageNode, link } from "../support/erofs-image.js";

const chain: Record<string, ImageNode> = { link0: link("/etc/passwd") };
for (let i = 1; i <= 45; i++) chain[`link${i}`] = link(`link${i - 1}`);

const root = dir({
  etc: dir({ passwd: emptyFile(), os: link("../usr/lib/os-release"), self: link("."), "\xff\xfe": emptyFile() }),
  usr: dir({ lib: dir({ "os-release": emptyFile() }), up: link("../../../../etc") }),
  abs: link("/etc/passwd"),
  absdir: link("/usr/lib/"),
  filedir: link("/etc/passwd/"),
  broken: link("/none/here"),
  loop: link("loop"),
  ping: link("pong"),
  pong: link("ping"),
  chain: dir(chain),
  "many-many": dir(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`entry-${i}`, emptyFile()]))),
});

describe("path resolution inside an image", () => {
  let scratch: string;
  let tree: ErofsTree;
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), "ocifs-paths-"));
    await writeFile(join(scratch, "image"), buildErofsImage(root, { deviceBlocks: 1 }));
    tree = await ErofsTree.open(join(scratch, "image"));
  });
  after(async () => {
    await rm(scratch, { recursive: true }); // first: it must go also when the image did not open
    await tree[Symbol.asyncDispose]();
  });

  const resolve = (path: string, followLast = true): string =>
    Buffer.from(resolvePath(tree, Buffer.from(path, "latin1"), { followLast }).path).toString("latin1");

  it("resolves as the kernel would with the image as root", () => {
    const cases: Record<string, string> = {
      "/": "/",
      "//": "/",
      "/..": "/",
      "/../../etc": "/etc",
      ".": "/",
      "etc/passwd": "/etc/passwd",
      "//etc///passwd": "/etc/passwd",
      "/etc/./passwd": "/etc/passwd",
      "/usr/lib/../../etc/passwd": "/etc/passwd",
      "/etc/os": "/usr/lib/os-release",
      "/etc/self/self/passwd": "/etc/passwd",
      "/usr/up": "/etc",
      "/usr/up/passwd": "/etc/passwd",
      "/usr/up/..": "/",
      "/abs": "/etc/passwd",
      "/absdir": "/usr/lib",
      "/absdir/os-release": "/usr/lib/os-release",
      "/absdir/..": "/usr",
      "/etc/": "/etc",
      "/usr/up/": "/etc",
      "/etc/\xff\xfe": "/etc/\xff\xfe",
      "/chain/link39": "/etc/passwd",
      "/many-many/entry-299": "/many-many/entry-299",
    };
    for (const [path, want] of Object.entries(cases)) assert.equal(resolve(path), want, path);
  });

  it("leaves the last link alone when asked, unless a slash follows", () => {
    assert.equal(resolve("/abs", false), "/abs");
    assert.equal(resolve("/loop", false), "/loop");
    assert.equal(resolve("/usr/up/", false), "/etc");
    assert.equal(resolve("/usr/up/passwd", false), "/etc/passwd");
  });

  it("refuses what has no answer", () => {
    const cases: Record<string, OcifsErrorCode> = {
      "": "usage",
      "/none": "not-found",
      "/none/..": "not-found",
      "/broken": "not-found",
      "/etc/passwd/": "not-found",
      "/etc/passwd/x": "not-found",
      "/etc/passwd/..": "not-found",
      "/etc/passwd/.": "not-found",
      "/abs/": "not-found",
      "/filedir": "not-found",
      "/loop": "limit",
      "/ping": "limit",
      "/chain/link40": "limit",
      [`/${"x".repeat(256)}`]: "not-found",
      [`/${"x/".repeat(2048)}`]: "limit",
    };
    for (const [path, code] of Object.entries(cases)) {
      assert.throws(
        () => resolve(path),
        (e) => isOcifsError(e, code),
        path.slice(0, 40),
      );
    }
  });

  it("walks each entry once, parents first", () => {
    const paths = [...tree.walk()].map(({ path }) => Buffer.from(path).toString("latin1"));
    assert.equal(new Set(paths).size, paths.length);
    assert.equal(paths.length, 1 + 11 + 4 + 2 + 1 + 46 + 300);
    for (const path of paths.slice(1))
      assert.ok(paths.indexOf(path.slice(0, path.lastIndexOf("/")) || "/") < paths.indexOf(path));
  });
});

describe("hostile directory structure", () => {
  let scratch: string;
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), "ocifs-loops-"));
  });
  after(() => rm(scratch, { recursive: true }));

  it("ends a walk through a directory that contains itself", async () => {
    const image = buildErofsImage(dir({ inner: dir({ again: dir({}) }) }), { deviceBlocks: 1 });
    // "again" is the last inode; its entry, the first of "inner" after "." and "..", is pointed at "inner" itself.
    const path = join(scratch, "loop");
    await writeFile(path, image);
    const tree = await ErofsTree.open(path);
    const inner = resolvePath(tree, Buffer.from("/inner")).nid;
    await tree[Symbol.asyncDispose]();
    const entry = 2048 + inner * 32 + 32 + 2 * 12;
    image.writeBigUInt64LE(BigInt(inner), entry);
    await writeFile(path, image);
    await using looped = await ErofsTree.open(path);
    assert.equal(resolvePath(looped, Buffer.from("/inner/again/again/again")).nid, inner);
    assert.throws(
      () => [...looped.walk()],
      (e) => isOcifsError(e, "corrupt"),
    );
  });

  it("refuses a nid that no number can hold", async () => {
    const image = buildErofsImage(dir({ file: emptyFile() }), { deviceBlocks: 1 });
    image.writeBigUInt64LE(1n << 60n, 2048 + 32 + 32 + 2 * 12); // third entry of the root, which is nid 1
    const path = join(scratch, "nid");
    await writeFile(path, image);
    await using tree = await ErofsTree.open(path);
    assert.throws(
      () => [...tree.walk()],
      (e) => isOcifsError(e, "corrupt"),
    );
  });
});
