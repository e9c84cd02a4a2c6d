import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { isOcifsError, type OcifsErrorCode } from "../../src/base/errors.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import { LayerMerge, mergeLayers } from "../../src/image/merge-layers.js";
import { digestOfBytes, hexOf } from "../../src/oci/digest.js";
import { buildErofsImage, dir, type ImageNode } from "../support/erofs-image.js";
import { imageOfBytes, listMerged, mergeLayerOfTar, mergeTars } from "../support/merge.js";
import { buildTar, type TarItem } from "../support/tar-builder.js";

const directory = (path: string, rest: Partial<TarItem> = {}): TarItem => ({ path, type: "directory", ...rest });
const link = (path: string, linkPath: string): TarItem => ({ path, type: "hardlink", linkPath });
const symlink = (path: string, linkPath: string): TarItem => ({ path, type: "symlink", linkPath, mode: 0o777 });

/** One short text an entry: what a test is about, and nothing else. */
async function merged(...layers: readonly (readonly TarItem[])[]): Promise<Record<string, string>> {
  const listing = await listMerged(layers.map((items) => buildTar(items)));
  return Object.fromEntries(
    listing.map(({ path, type, mode, uid, size, nlink, target, rdev }) => {
      const what = {
        directory: `d ${mode.toString(8)}${uid ? ` u${uid}` : ""}`,
        file: `f${size}${nlink === 1 ? "" : ` n${nlink}`}`,
        symlink: `l ${target}`,
        char: `c ${rdev}`,
      };
      return [path, what[type as keyof typeof what] ?? type];
    }),
  );
}

function refuses(layers: readonly (readonly TarItem[])[], code: OcifsErrorCode, message: RegExp): void {
  assert.throws(
    () => mergeTars(layers.map((items) => buildTar(items))),
    (error) => isOcifsError(error, code) && message.test(error.message),
  );
}

describe("merge: whiteouts", () => {
  const base = [
    directory("d", { mode: 0o750 }),
    { path: "d/a", data: "1" },
    { path: "d/s/b", data: "22" },
    { path: "f" },
  ];

  it("remove what is below, and never show themselves", async () => {
    assert.deepEqual(await merged(base, [{ path: ".wh.f" }, { path: "d/.wh.s" }]), {
      "/": "d 755",
      "/d": "d 750",
      "/d/a": "f1",
    });
    assert.deepEqual(await merged(base, [{ path: ".wh.d" }, { path: ".wh.nothing" }]), { "/": "d 755", "/f": "f0" });
  });

  it("leave entries of their own layer alone, whatever the order and the names", async () => {
    for (const name of ["-x", "x"]) {
      const upper: TarItem[] = [
        directory(name, { mode: 0o700 }),
        { path: `${name}/new`, data: "new" },
        { path: `.wh.${name}` },
      ];
      for (const items of [upper, upper.toReversed()]) {
        assert.deepEqual(await merged([directory(name), { path: `${name}/old` }], items), {
          "/": "d 755",
          [`/${name}`]: "d 700",
          [`/${name}/new`]: "f3",
        });
      }
    }
  });

  it("make a directory opaque to what is below", async () => {
    const upper: TarItem[] = [
      { path: "d/!before", data: "b" },
      { path: "d/.wh..wh..opq" },
      { path: "d/s/c", data: "333" },
    ];
    for (const items of [upper, upper.toReversed()]) {
      assert.deepEqual(await merged(base, items), {
        "/": "d 755",
        "/d": "d 750",
        "/d/!before": "f1",
        "/d/s": "d 755",
        "/d/s/c": "f3",
        "/f": "f0",
      });
    }
    assert.deepEqual(await merged(base, [{ path: ".wh..wh..opq" }, { path: "only" }]), { "/": "d 755", "/only": "f0" });
  });

  it("make no directories", async () => {
    assert.deepEqual(
      await merged(base, [{ path: "x/y/.wh.z" }, { path: "f/.wh.z" }, { path: "u/.wh..wh..opq" }]),
      await merged(base),
    );
  });

  it("are known by their names, whatever their type, also in the lowest layer", async () => {
    const odd: TarItem[] = [
      { path: ".wh.f", type: "char", device: [0, 0] },
      directory("d/.wh.a"),
      { path: "d/.wh.a/inside" },
      symlink("d/.wh.s", "x"),
    ];
    assert.deepEqual(await merged(base, odd), { "/": "d 755", "/d": "d 750" });
    assert.deepEqual(await merged([...odd, { path: "k" }]), { "/": "d 755", "/k": "f0" });
  });

  it("of AUFS's own files are dropped", async () => {
    const aufs: TarItem[] = [
      { path: ".wh..wh.plnk/3.4", data: "x" },
      link("k", ".wh..wh.plnk/3.4"),
      { path: ".wh..wh.aufs" },
    ];
    assert.deepEqual(await merged(base, aufs), { ...(await merged(base)), "/k": "f1" });
  });

  it("must name something", () => {
    refuses(
      [[{ path: "d/.wh." }]],
      "corrupt",
      /merge of layer 0, sha256:[0-9a-f]{64}: tar: whiteout "\.wh\." names no file/,
    );
  });
});

describe("merge: types and metadata", () => {
  it("replaces what has another type", async () => {
    const base: TarItem[] = [directory("d"), { path: "d/x" }, { path: "f" }, symlink("l", "d")];
    const upper: TarItem[] = [
      { path: "d", data: "f" },
      directory("f"),
      { path: "f/y" },
      directory("l"),
      { path: "l/z" },
    ];
    assert.deepEqual(await merged(base, upper), {
      "/": "d 755",
      "/d": "f1",
      "/f": "d 755",
      "/f/y": "f0",
      "/l": "d 755",
      "/l/z": "f0",
    });
  });

  it("takes a directory's metadata from the upper layer, all of it", async () => {
    const base: TarItem[] = [directory("d", { xattrs: { "user.a": "1", "user.b": "2" }, mtime: 1 }), { path: "d/x" }];
    const upper: TarItem[] = [
      directory("./", { mode: 0o711 }),
      directory("d", { mode: 0o1777, uid: 5, gid: 6, mtime: 9, xattrs: { "user.a": "3" } }),
    ];
    const [root, d, x] = await listMerged([base, upper].map((items) => buildTar(items)));
    assert.equal(root?.mode, 0o711);
    assert.deepEqual(d, {
      path: "/d",
      type: "directory",
      mode: 0o1777,
      uid: 5,
      gid: 6,
      mtimeNs: "9000000000",
      xattrs: { "user.a": "3" },
    });
    assert.equal(x?.path, "/d/x");
  });

  it("keeps a directory's metadata when an upper layer has no entry for it", async () => {
    const base: TarItem[] = [
      directory("./", { mode: 0o700 }),
      directory("a", { mode: 0o701, uid: 1 }),
      directory("a/b", { mode: 0o702 }),
    ];
    assert.deepEqual(await merged(base, [{ path: "a/b/c/new" }]), {
      "/": "d 700",
      "/a": "d 701 u1",
      "/a/b": "d 702",
      "/a/b/c": "d 755",
      "/a/b/c/new": "f0",
    });
    // Without an index's JSON nobody knows, and the layer's tree counts as it is.
    const [lower, upper] = [base, [{ path: "a/x" }]].map((items) => mergeLayerOfTar(buildTar(items)));
    assert.ok(lower && upper);
    const index = Buffer.concat([...mergeLayers([lower, { image: upper.image, digest: upper.digest }])]);
    await using tree = ErofsTree.of(imageOfBytes(index));
    const a = tree.lookup(tree.info.rootNid, Buffer.from("a"));
    assert.equal(tree.stat(a?.nid ?? 0).mode, 0o040755);
  });

  it("drops xattrs that overlayfs would act on, and keeps the rest", async () => {
    const xattrs = {
      "trusted.overlay.opaque": "y",
      "trusted.overlay.overlay.opaque": "y",
      "user.overlay.redirect": "/etc",
      "trusted.overlayer": "1",
      "security.capability": Buffer.from([1, 0, 255]),
      "user.k": "v",
    };
    const [root, f] = await listMerged([buildTar([directory("./", { xattrs }), { path: "f", xattrs }])]);
    const kept = { "security.capability": "\x01\x00\xff", "trusted.overlayer": "1", "user.k": "v" };
    assert.deepEqual([root?.xattrs, f?.xattrs], [kept, kept]);
  });

  it("keeps sparse files, devices, pipes and long names", async () => {
    const pax = { "GNU.sparse.size": String(3 << 20), "GNU.sparse.map": `${1 << 20},1024` };
    const items: TarItem[] = [
      { path: "sparse", data: "x".repeat(1024), pax },
      { path: "hole", pax: { "GNU.sparse.size": "5000" } },
      { path: "null", type: "char", device: [300, 70000], mtime: -5 },
      { path: "n".repeat(255), type: "fifo" },
      symlink("far", "t".repeat(4000)),
    ];
    const tar = buildTar(items);
    const listing = await listMerged([buildTar([]), tar]);
    assert.deepEqual(listing, await listMerged([tar]));
    assert.deepEqual(
      listing.map(({ path, size, rdev, target, mtimeNs }) => [
        path.slice(0, 7),
        size ?? rdev ?? target?.length ?? mtimeNs,
      ]),
      [
        ["/", "0"],
        ["/far", 4000],
        ["/hole", 5000],
        ["/nnnnnn", "0"],
        ["/null", "300:70000"],
        ["/sparse", 3 << 20],
      ],
    );
  });
});

describe("merge: hard links", () => {
  const base: TarItem[] = [{ path: "a", data: "shared" }, link("b", "a"), link("c", "a")];

  it("lose only the name that is whited out or replaced", async () => {
    assert.deepEqual(await merged(base, [{ path: ".wh.a" }]), { "/": "d 755", "/b": "f6 n2", "/c": "f6 n2" });
    assert.deepEqual(await merged(base, [{ path: "a", data: "new" }], [{ path: ".wh.b" }]), {
      "/": "d 755",
      "/a": "f3",
      "/c": "f6",
    });
  });

  it("reach into layers below, through symbolic links and past whiteouts", async () => {
    const upper: TarItem[] = [
      link("d/e", "a"),
      { path: ".wh.a" },
      { path: ".wh.c" },
      symlink("here", "."),
      link("f", "here/b"),
      link("g", "d/e"),
    ];
    assert.deepEqual(await merged(base, upper, [link("top", "g"), { path: ".wh.d" }]), {
      "/": "d 755",
      "/b": "f6 n4",
      "/f": "f6 n4",
      "/g": "f6 n4",
      "/here": "l .",
      "/top": "f6 n4",
    });
  });

  it("replace a directory, and the file of the target's own name stays what it was for them", async () => {
    const upper: TarItem[] = [link("d", "a"), { path: "a", data: "new" }];
    assert.deepEqual(await merged([...base, { path: "d/x" }], upper), {
      "/": "d 755",
      "/a": "f3",
      "/b": "f6 n3",
      "/c": "f6 n3",
      "/d": "f6 n3",
    });
  });

  it("are refused when their target is nowhere, is a directory, or only comes later", () => {
    refuses(
      [base, [link("x", "none")]],
      "corrupt",
      /merge of layer 1, .*"x": hard link to "none", which is neither earlier/,
    );
    refuses([[directory("d")], [link("x", "d")]], "corrupt", /which is a directory/);
    refuses([base, [link("x", "late"), { path: "late" }]], "corrupt", /neither earlier in its layer/);
    refuses([[link("x", "y")]], "corrupt", /merge of layer 0/);
  });
});

describe("merge: paths through symbolic links of layers below", () => {
  const base: TarItem[] = [
    directory("usr"),
    directory("usr/lib", { mode: 0o750 }),
    { path: "usr/lib/old" },
    symlink("lib", "usr/lib"),
  ];

  it("lead to the directory behind the link", async () => {
    const upper: TarItem[] = [{ path: "lib/new" }, { path: "lib/sub/deep" }, { path: "lib/.wh.old" }];
    assert.deepEqual(await merged(base, upper), {
      "/": "d 755",
      "/lib": "l usr/lib",
      "/usr": "d 755",
      "/usr/lib": "d 750",
      "/usr/lib/new": "f0",
      "/usr/lib/sub": "d 755",
      "/usr/lib/sub/deep": "f0",
    });
  });

  it("make what a link points to when it is missing, never outside the root", async () => {
    const out: TarItem[] = [symlink("out", "../../../x/./y"), symlink("abs", "/x"), symlink("chain", "abs/z")];
    assert.deepEqual(await merged(out, [{ path: "out/1" }, { path: "chain/2" }]), {
      "/": "d 755",
      "/abs": "l /x",
      "/chain": "l abs/z",
      "/out": "l ../../../x/./y",
      "/x": "d 755",
      "/x/y": "d 755",
      "/x/y/1": "f0",
      "/x/z": "d 755",
      "/x/z/2": "f0",
    });
  });

  it("end at a directory of the layer's own where a link leads to none", async () => {
    const odd: TarItem[] = [symlink("loop", "loop2"), symlink("loop2", "loop"), { path: "f" }, symlink("tofile", "f")];
    assert.deepEqual(await merged(odd, [{ path: "loop/1" }, { path: "tofile/2" }, { path: "f/3" }]), {
      "/": "d 755",
      "/f": "d 755",
      "/f/3": "f0",
      "/loop": "d 755",
      "/loop/1": "f0",
      "/loop2": "l loop",
      "/tofile": "d 755",
      "/tofile/2": "f0",
    });
  });
});

describe("merge: layers and slots", () => {
  const tars = [[{ path: "a", data: "a".repeat(600) }], [], [{ path: "b", data: "b" }]].map((items) => buildTar(items));

  it("gives each layer a slot with its digest, one behind the other", () => {
    const { index, merge } = mergeTars(tars);
    const { devices, primaryBlocks } = imageOfBytes(index).info();
    assert.equal(primaryBlocks * 512, index.length);
    let uniaddr = primaryBlocks;
    const want = tars.map((tar) => {
      const device = { tag: new Uint8Array(Buffer.from(hexOf(digestOfBytes(tar)))), blocks: tar.length / 512, uniaddr };
      uniaddr += device.blocks;
      return device;
    });
    assert.deepEqual(devices, want);
    assert.deepEqual(
      merge.devices,
      tars.map((tar) => ({ digest: digestOfBytes(tar), blocks: tar.length / 512 })),
    );
  });

  it("uses one slot for a layer that comes twice, and applies it twice", async () => {
    const [a, empty] = tars;
    assert.ok(a && empty);
    const remove = buildTar([{ path: ".wh.a" }]);
    const { index } = mergeTars([a, empty, remove, a, empty]);
    assert.equal(imageOfBytes(index).info().devices.length, 3);
    assert.deepEqual(await listMerged([a, empty, remove, a, empty]), await listMerged([a]));
  });

  it("is the same bytes for the same layers, and differs in its UUID for others", () => {
    const [first, second] = [mergeTars(tars).index, mergeTars(tars).index];
    assert.ok(first.equals(second));
    const other = mergeTars([...tars, buildTar([])]).index;
    assert.notDeepEqual(first.subarray(1072, 1088), other.subarray(1072, 1088));
  });

  it("takes 127 layers", async () => {
    const many = Array.from({ length: 127 }, (_, i) =>
      buildTar([{ path: `d/f${i}`, data: `${i}` }, { path: "top", data: `${i}` }, { path: `d/.wh.f${i - 2}` }]),
    );
    const listing = await listMerged(many);
    assert.deepEqual(
      listing.map(({ path, size }) => [path, size]),
      [
        ["/", undefined],
        ["/d", undefined],
        ["/d/f125", 3],
        ["/d/f126", 3],
        ["/top", 3],
      ],
    );
  });

  it("refuses no layers, indexes for overlayfs, and two sizes of one layer", () => {
    const fails = (use: () => unknown, code: OcifsErrorCode, message: RegExp) =>
      assert.throws(use, (error) => isOcifsError(error, code) && message.test(error.message));
    fails(() => mergeLayers([]), "usage", /without layers/);
    const layer = mergeLayerOfTar(buildTar([{ path: "f", data: "x" }]));
    const facts = { whiteouts: "overlay", impliedDirectories: [], danglingLinks: [] } as const;
    fails(() => mergeLayers([{ ...layer, facts }]), "unsupported", /merge of layer 0, .*overlayfs/);
    const empty = mergeLayerOfTar(buildTar([]));
    fails(() => mergeLayers([layer, { ...empty, digest: layer.digest }]), "mismatch", /2 blocks of tar, 4 where/);
    const merge = new LayerMerge();
    fails(() => merge.add({ ...layer, facts }), "unsupported", /overlayfs/);
    fails(() => merge.add(layer), "internal", /after it failed/);
    fails(() => merge.write(), "internal", /after it failed/);
  });
});

describe("merge: indexes of other tools", () => {
  const of = (root: ImageNode) => ({
    image: imageOfBytes(buildErofsImage(root, { deviceBlocks: 8 })),
    digest: digestOfBytes(Buffer.from("foreign")),
  });

  it("refuses file data inside an index", () => {
    const inline: ImageNode = { mode: 0o100644, target: "inline data" };
    assert.throws(
      () => mergeLayers([of(dir({ inline }))]),
      (error) =>
        isOcifsError(error, "unsupported") &&
        /tar entry "inline": its data lies in the index itself/.test(error.message),
    );
  });

  it("takes files of several chunks and of the flat address space", async () => {
    const chunks: ImageNode = { mode: 0o100644, chunks: [3, null, 5], sizeBytes: 1500 };
    const flat: ImageNode = { mode: 0o100644, deviceBlock: 1, sizeBytes: 700 };
    await using tree = ErofsTree.of(imageOfBytes(Buffer.concat([...mergeLayers([of(dir({ chunks, flat }))])])));
    const extents = ["chunks", "flat"].map((name) => {
      const found = tree.lookup(tree.info.rootNid, Buffer.from(name));
      return tree.image.mapRange(found?.nid ?? 0, 0, 1 << 20);
    });
    assert.deepEqual(extents, [
      [
        { kind: "device", fileOffset: 0, length: 512, device: 1, offset: 1536 },
        { kind: "hole", fileOffset: 512, length: 512, device: 0, offset: 0 },
        { kind: "device", fileOffset: 1024, length: 476, device: 1, offset: 2560 },
      ],
      [{ kind: "device", fileOffset: 0, length: 700, device: 1, offset: 512 }],
    ]);
  });
});
