import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { appendFile, link, mkdir, mkdtemp, open, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { isOcifsError } from "../../src/base/errors.js";
import { resolvePath } from "../../src/erofs/path-walk.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import { buildErofsImage, dir, emptyFile, type ImageNode, link as linkNode } from "../support/erofs-image.js";
import { skipWithoutRoot, withKernelErofs } from "../support/erofs-mount.js";
import { sharedFixture } from "../support/fixtures.js";
import { MemoryDevice } from "../support/memory-device.js";
import { listDirectory, listErofs } from "../support/tree-listing.js";

const run = promisify(execFile);

/** Bytes that neither compress nor repeat. */
function noise(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0, x = seed; i < length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}

/** Every kind of inode, sizes around the block size, names of all bytes, xattrs of all namespaces. */
async function makeSource(root: string): Promise<void> {
  await mkdir(join(root, "sizes"), { recursive: true });
  for (const size of [0, 1, 100, 4032, 4095, 4096, 4097, 8192, 70_000, 1_500_000]) {
    await writeFile(join(root, "sizes", String(size)), noise(size, size));
  }
  const sparse = await open(join(root, "sizes", "sparse"), "w");
  await sparse.write(noise(5000, 7), 0, 5000, 1 << 20);
  await sparse.truncate(3 << 20);
  await sparse.close();

  await mkdir(join(root, "many"));
  for (let i = 0; i < 1500; i++) await writeFile(join(root, "many", `entry-${i}-${"n".repeat(i % 90)}`), "");
  await mkdir(join(root, "names"));
  for (let byte = 1; byte < 256; byte++) {
    if (byte === 0x2f || byte === 0x2e) continue;
    await writeFile(Buffer.concat([Buffer.from(join(root, "names/")), Buffer.of(byte)]), "");
  }
  await writeFile(join(root, "names", "x".repeat(250)), "long");
  await mkdir(join(root, "a/b/c/d"), { recursive: true });

  await symlink("sizes/1", join(root, "link"));
  await symlink(`/${"t/".repeat(2000)}`, join(root, "link-long"));
  await symlink("z".repeat(4050), join(root, "link-block"));
  await link(join(root, "sizes/100"), join(root, "hard"));
  await run("mknod", ["-m", "600", join(root, "char"), "c", "300", "70000"]);
  await run("mknod", ["-m", "640", join(root, "block"), "b", "8", "1"]);
  await run("mkfifo", [join(root, "fifo")]);
  await run("chown", ["-h", "70000:80000", join(root, "link"), join(root, "sizes/1")]);
  await run("chmod", ["6755", join(root, "sizes/4096")]);

  const set = (name: string, value: string, path: string) =>
    run("setfattr", ["-h", "-n", name, "-v", value, join(root, path)]);
  await set("user.one", "two", "sizes/1");
  await set("user.empty", "", "sizes/1");
  await set("user.big", `0x${noise(1500, 3).toString("hex")}`, "sizes/70000");
  await set("trusted.overlay.opaque", "y", "a");
  await set("security.capability", "0x0100000200040000000000000000000000000000", "sizes/4096");
  await set("trusted.on-link", "v", "link");
  const acl = "0x0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000400ffffffff";
  await set("system.posix_acl_access", acl, "sizes/100");
  for (const name of ["0", "1", "100", "4095", "4097"])
    await set("user.shared", "the same everywhere", `sizes/${name}`);
}

describe("the reader and the kernel's EROFS agree", { skip: skipWithoutRoot }, () => {
  let scratch: string;
  let source: string;
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), "ocifs-kernel-"));
    source = join(scratch, "source");
    await makeSource(source);
  });
  after(() => rm(scratch, { recursive: true }));

  const variants: Record<string, string[]> = {
    "default options": [],
    "data never inline": ["-E", "noinline_data"],
    "extended inodes": ["-E", "force-inode-extended"],
    "compact inodes": ["-E", "force-inode-compact", "--all-root", "--ignore-mtime"],
    "shared xattrs": ["-x1"],
    "no shared xattrs": ["-x255"],
    "one time for all": ["-T", "1234567890", "--all-root"],
    "4 KiB chunks with block map": ["--chunksize=4096"],
    "64 KiB chunks": ["--chunksize=65536"],
    "4 KiB chunks with indexes": ["--chunksize=4096", "-E", "force-chunk-indexes"],
  };
  for (const [name, options] of Object.entries(variants)) {
    it(`on an image of mkfs.erofs with ${name}`, async () => {
      const image = join(scratch, "image");
      await rm(image, { force: true });
      await run("mkfs.erofs", ["--quiet", ...options, image, source]);
      await using tree = await ErofsTree.open(image);
      const ours = await listErofs(tree, []);
      assert.ok(ours.length > 1700);
      assert.equal(ours.filter((e) => Object.keys(e.xattrs).length > 0).length, 10);
      assert.deepEqual(ours, await withKernelErofs(image, listDirectory));
    });
  }

  it("on a foreign tarindex followed by its tar", async () => {
    const index = sharedFixture("erofs-utils-1.9.3/layer.tarindex");
    const tar = gunzipSync(await readFile(sharedFixture("erofs-utils-1.9.3/layer.tar.gz")));
    const flat = join(scratch, "flat");
    await writeFile(flat, Buffer.concat([await readFile(index), tar]));
    await using tree = await ErofsTree.open(index);
    const ours = await listErofs(tree, [new MemoryDevice(tar)]);
    assert.equal(ours.length, 241);
    assert.deepEqual(ours, await withKernelErofs(flat, listDirectory));
  });

  for (const dotOmitted of [false, true]) {
    it(`on a 48-bit image with long xattr prefixes, "." ${dotOmitted ? "omitted" : "stored"}`, async () => {
      const device = noise(64 * 512, 11);
      const index = buildErofsImage(richTree(), {
        dotOmitted,
        deviceBlocks: 64,
        prefixes: [
          [4, "overlay."],
          [1, "a.long.infix."],
        ],
      });
      const indexPath = join(scratch, "wide-index");
      const flatPath = join(scratch, "wide-flat");
      await writeFile(indexPath, index);
      await writeFile(flatPath, index);
      await appendFile(flatPath, device);
      await using tree = await ErofsTree.open(indexPath);
      const ours = await listErofs(tree, [new MemoryDevice(device)]);
      assert.equal(ours.length, 411);
      assert.deepEqual(ours, await withKernelErofs(flatPath, listDirectory));
      const names = [...tree.image.readdir(tree.info.rootNid, 0, 1000).entries].map((e) =>
        Buffer.from(e.name).toString(),
      );
      assert.equal(names.filter((n) => n === ".").length, 1);
    });
  }

  it("on long xattr prefixes kept in the packed inode", async () => {
    const infix = "of.a.packed.inode.";
    const table = `${String.fromCharCode(infix.length + 1)}\0\x01${infix}`;
    const image = buildErofsImage(
      dir({
        packed: { mode: 0o100600, target: table },
        file: { ...emptyFile(), xattrs: [[0x80, "key", "value"]] },
      }),
      { deviceBlocks: 1, prefixes: [[1, "unused."]] },
    );
    const path = join(scratch, "packed");
    await writeFile(path, Buffer.concat([image, Buffer.alloc(512)]));
    const plain = await ErofsTree.open(path);
    const packed = resolvePath(plain, Buffer.from("/packed")).nid;
    await plain[Symbol.asyncDispose]();
    image.writeUInt32LE(0x2, 1024 + 8); // without PLAIN_XATTR_PFX
    image.writeUInt32LE(image.readUInt32LE(1024 + 80) | 0x20, 1024 + 80); // FRAGMENTS
    image.writeUInt32LE(0, 1024 + 92); // the table begins at byte 0 of the packed inode
    image.writeBigUInt64LE(BigInt(packed), 1024 + 96);
    await writeFile(path, Buffer.concat([image, Buffer.alloc(512)]));
    await using tree = await ErofsTree.open(path);
    const ours = await listErofs(tree, []);
    assert.deepEqual(ours.find((e) => e.path === "/file")?.xattrs, { [`user.${infix}key`]: "value" });
    assert.deepEqual(ours, await withKernelErofs(path, listDirectory));
  });

  it("but compressed content is refused by name", async () => {
    const plain = join(scratch, "compressible");
    await mkdir(plain);
    await writeFile(join(plain, "zeros"), Buffer.alloc(1 << 20));
    const image = join(scratch, "compressed");
    await run("mkfs.erofs", ["--quiet", "-zlz4", image, plain]);
    await using tree = await ErofsTree.open(image);
    const { nid, attr } = resolvePath(tree, Buffer.from("/zeros"));
    assert.equal(attr.sizeBytes, 1 << 20);
    await assert.rejects(
      tree.read(nid, 0, 1, []),
      (e) => isOcifsError(e, "unsupported") && /compressed/.test(e.message),
    );

    const big = join(scratch, "big-cluster");
    await run("mkfs.erofs", ["--quiet", "-zlz4", "-C65536", big, plain]);
    await assert.rejects(ErofsTree.open(big), (e) => isOcifsError(e, "unsupported") && /BIG_PCLUSTER/.test(e.message));
  });
});

function richTree(): ImageNode {
  return dir({
    whole: { mode: 0o100644, mtimeDelta: 77, uid: 1000, chunks: [3, 4, 5], sizeBytes: 1500 },
    holes: { mode: 0o100600, chunks: [null, 9, null, 10], sizeBytes: 2048 },
    ["n".repeat(255)]: emptyFile(),
    "all-hole": { mode: 0o100600, chunks: [null, null], sizeBytes: 1000 },
    opaque: {
      ...dir({}),
      xattrs: [
        [0x80, "opaque", "y"],
        [0x81, "key", "value"],
        [1, "short", ""],
      ],
    },
    flat: { mode: 0o100644, deviceBlock: 20, sizeBytes: 1300 },
    null: { mode: 0o020666, rdev: 0x103 },
    fifo: { mode: 0o010600 },
    link: linkNode("whole"),
    many: dir(Object.fromEntries(Array.from({ length: 400 }, (_, i) => [`file-${i}`, emptyFile()]))),
  });
}
