import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, open, readdir, readFile, readlink, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";
import { rootEntry } from "../../src/erofs/file-tree.js";
import { noXattrs } from "../../src/erofs/inode-table.js";
import { writeTarindex } from "../../src/erofs/tarindex-writer.js";
import { cannotMountErofs, listTree, mountErofs } from "../support/kernel-erofs.js";
import { tarindexOfTar, treeOfTar, zeroUuid } from "../support/layers.js";
import { buildTar, type TarItem } from "../support/tar-builder.js";

const run = promisify(execFile);

/** A device, an inode of each kind and each size class, names at their limits, all that replaces something. */
const everything: (TarItem | Buffer)[] = [
  { path: "./", type: "directory", mode: 0o755, mtime: 1600000000 },
  { path: "etc", type: "directory", mode: 0o750, uid: 1, gid: 2, mtime: 1600000000 },
  { path: "etc/passwd", data: "root:x:0:0\n", mode: 0o600, uid: 70000, gid: 5, mtime: 1600000000 },
  { path: "etc/empty", mtime: 1600000000 },
  { path: "etc/block", data: "b".repeat(512), mtime: 1600000001 },
  { path: "etc/ns", data: "n", pax: { mtime: "1600000000.123456789" } },
  { path: "etc/before-1970", data: "o", pax: { mtime: "-1000.5" } },
  { path: "big", data: "0123456789abcdef".repeat(80000), mode: 0o4711, mtime: 1600000000 },
  { path: "dev", type: "directory", mtime: 1600000000 },
  { path: "dev/null", type: "char", device: [1, 3], mode: 0o666, mtime: 1600000000 },
  { path: "dev/odd", type: "block", device: [300, 70000], mode: 0o600, mtime: 1600000000 },
  { path: "dev/pipe", type: "fifo", mode: 0o622, mtime: 1600000000 },
  { path: "lib", type: "symlink", linkPath: "usr/lib", mode: 0o777, mtime: 1600000000 },
  ...[1, 447, 448, 449, 511, 512, 513, 1500, 4000].map(
    (length): TarItem => ({
      path: `link-${length}`,
      type: "symlink",
      linkPath: "t".repeat(length),
      mode: 0o777,
      mtime: 1600000000,
    }),
  ),
  { path: "etc/hard", type: "hardlink", linkPath: "etc/passwd" },
  { path: "names", type: "directory", mtime: 1600000000 },
  ...["!before", "-dash", "..dots", ".hidden", "a", "a.b", "ab", "\xff", "z".repeat(255)].map(
    (name): TarItem => ({ path: Buffer.from(`names/${name}`, "latin1"), data: name, mtime: 1600000000 }),
  ),
  { path: "many", type: "directory", mtime: 1600000000 },
  ...Array.from(
    { length: 700 },
    (_, i): TarItem => ({ path: `many/${"n".repeat(i % 200)}${i}`, data: String(i), mtime: 1600000000 }),
  ),
  { path: "x", type: "directory", mtime: 1600000000, xattrs: { "user.dir": "d" } },
  ...Array.from(
    { length: 40 },
    (_, i): TarItem => ({
      path: `x/${i}`,
      type: i % 3 === 0 ? "directory" : "file",
      data: i % 3 === 0 ? "" : "x",
      mode: 0o755,
      mtime: 1600000000,
      xattrs: {
        "user.a": Buffer.alloc(i * 17, i),
        "security.capability": Buffer.from("0100000200240000000000000000000000000000", "hex"),
        [`trusted.n${i}`]: "",
      },
    }),
  ),
  // Replacements, in the order of the archive.
  { path: "r1", data: "old" },
  { path: "r1-hard", type: "hardlink", linkPath: "r1" },
  { path: "r1", data: "new", mtime: 5 },
  { path: "r2", type: "directory" },
  { path: "r2/gone", data: "gone" },
  { path: "r3", data: "file" },
  { path: "r3", type: "directory", mtime: 6 },
  { path: "r3/in", data: "in", mtime: 6 },
  { path: "r3", type: "directory", mode: 0o700, mtime: 7 },
];

describe("the kernel's EROFS reads what the writer writes", { skip: cannotMountErofs }, () => {
  let directory = "";
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "ocifs-writer-"));
  });
  after(() => rm(directory, { recursive: true }));

  async function put(name: string, bytes: Uint8Array): Promise<string> {
    const path = join(directory, name);
    await writeFile(path, bytes);
    return path;
  }

  /** Unpacks a tar as root with everything it says, and lists it. */
  async function unpacked(tarPath: string): Promise<string[]> {
    const target = await mkdtemp(join(directory, "unpacked-"));
    await run("tar", [
      "-xpf",
      tarPath,
      "-C",
      target,
      "--numeric-owner",
      "--xattrs",
      "--xattrs-include=*",
      "--delay-directory-restore",
    ]);
    return listTree(target);
  }

  it("as GNU tar unpacks the same archive", async () => {
    const tar = buildTar(everything);
    const tarPath = await put("everything.tar", tar);
    await using mount = await mountErofs(await put("everything.tarindex", tarindexOfTar(tar)), [tarPath]);
    assert.deepEqual(await listTree(mount.directory), await unpacked(tarPath));
  });

  it("with all inodes compact, and with all extended", async () => {
    const items = everything.filter((item): item is TarItem => !Buffer.isBuffer(item));
    const sizes: number[] = [];
    for (const mtimeOf of [() => 1234567890, (i: number) => 1234567890 + i]) {
      const tar = buildTar(items.map(({ pax, ...item }, i) => ({ ...item, uid: 1, mtime: mtimeOf(i) })));
      const tarPath = await put("times.tar", tar);
      const index = tarindexOfTar(tar);
      sizes.push(index.length);
      await using mount = await mountErofs(await put("times.tarindex", index), [tarPath]);
      assert.deepEqual(await listTree(mount.directory), await unpacked(tarPath));
    }
    const [compact = 0, extended = 0] = sizes;
    assert.ok(compact < extended, `${compact} < ${extended}`);
  });

  it("sparse files of GNU tar in all its formats", async () => {
    const source = join(directory, "sparse");
    await mkdir(source);
    for (const [name, size, pieces] of [
      ["middle", 1 << 20, [[256 << 10, 128 << 10]]],
      [
        "two",
        (1 << 20) + 100,
        [
          [0, 4096],
          [512 << 10, (512 << 10) + 100],
        ],
      ],
      ["many", 4 << 20, Array.from({ length: 60 }, (_, i) => [i * 65536, 8192])],
      ["hole", 1 << 20, []],
    ] as const) {
      await using file = await open(join(source, name), "w");
      await file.truncate(size);
      for (const [offset = 0, length = 0] of pieces) await file.write(Buffer.alloc(length, name), 0, length, offset);
    }
    for (const format of [
      "--format=gnu",
      "--format=posix --sparse-version=0.0",
      "--format=posix --sparse-version=0.1",
      "--format=posix --sparse-version=1.0",
    ]) {
      const tarPath = join(directory, "sparse.tar");
      await run("tar", ["-cSf", tarPath, ...format.split(" "), "-C", source, "."]);
      const tar = await readFile(tarPath);
      assert.ok(tar.length < 3 << 20, format);
      await using mount = await mountErofs(await put("sparse.tarindex", tarindexOfTar(tar)), [tarPath]);
      assert.deepEqual(await listTree(mount.directory), await unpacked(tarPath), format);
    }
  });

  it("whiteouts for overlayfs", async () => {
    const lower = join(directory, "lower");
    await mkdir(join(lower, "opaque"), { recursive: true });
    await mkdir(join(lower, "again"));
    for (const name of ["gone", "stays", "opaque/old", "again/old"]) await writeFile(join(lower, name), name);
    const tar = buildTar([
      { path: ".wh.gone" },
      { path: "opaque/", type: "directory" },
      { path: "opaque/new", data: "new" },
      { path: "opaque/.wh..wh..opq" },
      { path: ".wh.again" },
      { path: "again/new", data: "new" },
      { path: ".wh..wh.plnk/1", data: "aufs" },
    ]);
    const tarPath = await put("upper.tar", tar);
    await using upper = await mountErofs(await put("upper.tarindex", tarindexOfTar(tar, "overlay")), [tarPath]);
    assert.deepEqual((await readdir(upper.directory)).sort(), ["again", "gone", "opaque"]);
    const merged = join(directory, "merged");
    await mkdir(merged);
    await run("mount", ["-t", "overlay", "overlay", "-o", `lowerdir=${upper.directory}:${lower}`, merged]);
    try {
      assert.deepEqual((await readdir(merged)).sort(), ["again", "opaque", "stays"]);
      assert.deepEqual(await readdir(join(merged, "opaque")), ["new"]);
      assert.deepEqual(await readdir(join(merged, "again")), ["new"]);
    } finally {
      await run("umount", [merged]);
    }
  });

  it("files of several layers, each on its own device, and flat", async () => {
    const tars = ["first", "second", "third"].map((name) => buildTar([{ path: name, data: `content of ${name}` }]));
    const { tree } = treeOfTar(tars[0] ?? Buffer.alloc(0));
    const metadata = { permissions: 0o644, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanoseconds: 0, xattrs: noXattrs };
    for (const [i, name] of [
      [2, "second"],
      [3, "third"],
    ] as const) {
      const sizeBytes = `content of ${name}`.length;
      const extents = [{ offset: 0, sizeBytes, deviceOffset: 512 }];
      const inode = tree.inodes.add(metadata, { kind: "file", sizeBytes, device: i, extents });
      tree.link(tree.place(rootEntry, Buffer.from(name)), inode);
    }
    const devices = tars.map((tar, i) => ({ tag: String(i).repeat(64), blocks: tar.length / 512 }));
    const index = await put("three.tarindex", Buffer.concat([...writeTarindex(tree, { devices, uuid: zeroUuid })]));
    const paths = await Promise.all(tars.map((tar, i) => put(`layer-${i}.tar`, tar)));
    const flat = await put("three.flat", Buffer.concat([await readFile(index), ...tars]));
    for (const [image, slots] of [
      [index, paths],
      [flat, []],
    ] as const) {
      await using mount = await mountErofs(image, slots);
      for (const name of ["first", "second", "third"]) {
        assert.equal(await readFile(join(mount.directory, name), "utf8"), `content of ${name}`);
      }
    }
  });

  it("data beyond 2 TiB of a layer, by 48-bit addresses", async () => {
    const { tree } = treeOfTar(buildTar([{ path: "near", data: "near" }]));
    const far = 2 ** 32 * 512 + 512;
    const metadata = { permissions: 0o644, uid: 0, gid: 0, mtimeSeconds: 9, mtimeNanoseconds: 0, xattrs: noXattrs };
    const content = {
      kind: "file",
      sizeBytes: 3,
      device: 1,
      extents: [{ offset: 0, sizeBytes: 3, deviceOffset: far }],
    } as const;
    tree.link(tree.place(rootEntry, Buffer.from("far")), tree.inodes.add(metadata, content));
    const devicePath = join(directory, "huge.tar");
    await using device = await open(devicePath, "w");
    await device.write("near", 512);
    await device.write("far", far);
    await device.truncate(far + 4096);
    const devices = [{ tag: "", blocks: (far + 4096) / 512 }];
    const index = await put("huge.tarindex", Buffer.concat([...writeTarindex(tree, { devices, uuid: zeroUuid })]));
    await using mount = await mountErofs(index, [devicePath]);
    assert.equal(await readFile(join(mount.directory, "near"), "utf8"), "near");
    assert.equal(await readFile(join(mount.directory, "far"), "utf8"), "far");
    assert.equal((await stat(join(mount.directory, "far"))).mtimeMs, 9000);
  });

  it("attributes and directories of more than 64 KiB", async () => {
    const value = Buffer.alloc(65535, 0xfe);
    const tar = buildTar([
      {
        path: "file",
        data: "f",
        xattrs: { "user.big": value, "user.small": "s", "trusted.other": Buffer.alloc(60000, 1) },
      },
      ...Array.from({ length: 9000 }, (_, i): TarItem => ({ path: `d/${i}`, type: "symlink", linkPath: `to-${i}` })),
    ]);
    const tarPath = await put("large.tar", tar);
    await using mount = await mountErofs(await put("large.tarindex", tarindexOfTar(tar)), [tarPath]);
    assert.equal((await readdir(join(mount.directory, "d"))).length, 9000);
    for (const i of [0, 1, 4567, 8999]) assert.equal(await readlink(join(mount.directory, "d", String(i))), `to-${i}`);
    const { stdout } = await run(
      "getfattr",
      ["-d", "-m", "-", "-e", "hex", "--absolute-names", join(mount.directory, "file")],
      { maxBuffer: 1 << 20 },
    );
    const expected = [
      `trusted.other=0x${"01".repeat(60000)}`,
      `user.big=0x${value.toString("hex")}`,
      "user.small=0x73",
    ];
    assert.deepEqual(stdout.trim().split("\n").slice(1), expected);
  });
});
