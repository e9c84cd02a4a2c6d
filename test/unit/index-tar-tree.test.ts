import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { isOcifsError, type OcifsErrorCode } from "../../src/base/errors.js";
import { type FileTree, rootEntry } from "../../src/erofs/file-tree.js";
import type { WhiteoutMode } from "../../src/index/tar-tree.js";
import { finishedTree, treeOfTar } from "../support/layers.js";
import { buildTar, type TarItem } from "../support/tar-builder.js";

/** Path → what it is: "d" or "f<size>" or "l<target>" or "c", with octal permissions. */
function shape(tree: FileTree): Record<string, string> {
  const found: [string, string][] = [];
  const todo = [rootEntry];
  for (let entry = todo.pop(); entry !== undefined; entry = todo.pop()) {
    const inode = tree.inode(entry);
    const mode = tree.inodes.mode(inode);
    const kind = new Map([
      [0o040000, "d"],
      [0o100000, `f${tree.inodes.sizeBytes(inode)}`],
      [0o020000, "c"],
    ]).get(mode & 0o170000);
    const text = kind ?? `l${Buffer.from(tree.inodes.target(inode)).toString()}`;
    found.push([Buffer.from(tree.path(entry)).toString() || "/", `${text} ${(mode & 0o7777).toString(8)}`]);
    for (let child = tree.firstChild(entry); child >= 0; child = tree.nextSibling(child)) {
      if (tree.inode(child) >= 0) todo.push(child);
    }
  }
  return Object.fromEntries(found.sort(([a], [b]) => (a < b ? -1 : 1)));
}

function shapeOf(items: readonly TarItem[], whiteouts: WhiteoutMode = "keep"): Record<string, string> {
  return shape(treeOfTar(buildTar(items), whiteouts).tree);
}

function refuses(
  items: readonly TarItem[],
  code: OcifsErrorCode,
  message: RegExp,
  whiteouts: WhiteoutMode = "keep",
): void {
  assert.throws(
    () => shapeOf(items, whiteouts),
    (error) => isOcifsError(error, code) && message.test(error.message),
  );
}

function find(tree: FileTree, path: string): number {
  return path.split("/").reduce((at, name) => tree.find(at, Buffer.from(name)), rootEntry);
}

function xattrs(tree: FileTree, path: string): Record<string, string> {
  const list = tree.xattrs.list(tree.inodes.xattrs(tree.inode(find(tree, path))));
  return Object.fromEntries(list.map((x) => [Buffer.from(x.name).toString(), Buffer.from(x.value).toString()]));
}

describe("tree of a tar", () => {
  it("has a root of its own when the tar has none", () => {
    assert.deepEqual(shapeOf([]), { "/": "d 755" });
    assert.deepEqual(shapeOf([{ path: "./", type: "directory", mode: 0o700 }]), { "/": "d 700" });
  });

  it("makes missing directories, and takes their entries when they come", () => {
    const late: TarItem[] = [
      { path: "./", type: "directory", mode: 0o775 },
      { path: "a/b/f", data: "x" },
      { path: "a", type: "directory", mode: 0o711 },
    ];
    assert.deepEqual(shapeOf(late), { "/": "d 775", "/a": "d 711", "/a/b": "d 775", "/a/b/f": "f1 644" });
  });

  it("lets the last of a name count", () => {
    const items: TarItem[] = [
      { path: "f", data: "one" },
      { path: "f", data: "three" },
      { path: "d/x", data: "x" },
      { path: "d", data: "now a file" },
      { path: "e", data: "file" },
      { path: "e", type: "directory" },
      { path: "k/in" },
      { path: "k", type: "directory", mode: 0o500 },
    ];
    assert.deepEqual(shapeOf(items), {
      "/": "d 755",
      "/d": "f10 644",
      "/e": "d 755",
      "/f": "f5 644",
      "/k": "d 500",
      "/k/in": "f0 644",
    });
  });

  it("forgets what was below a directory that came back", () => {
    const items: TarItem[] = [
      { path: "d/a/b" },
      { path: "d", type: "symlink", linkPath: "t" },
      { path: "d", type: "directory" },
    ];
    assert.deepEqual(shapeOf(items), { "/": "d 755", "/d": "d 755" });
  });

  it("keeps a hard-linked inode when its first name is replaced", () => {
    const { tree } = treeOfTar(
      buildTar([
        { path: "a", data: "shared" },
        { path: "b", type: "hardlink", linkPath: "./a" },
        { path: "c", type: "hardlink", linkPath: "/b" },
        { path: "a", data: "new" },
      ]),
    );
    assert.equal(tree.inode(find(tree, "b")), tree.inode(find(tree, "c")));
    assert.notEqual(tree.inode(find(tree, "a")), tree.inode(find(tree, "b")));
    assert.equal(tree.inodes.sizeBytes(tree.inode(find(tree, "b"))), 6);
  });

  it("tells which hard links have their target in a layer below, and leaves them out", () => {
    const { tree, danglingLinks } = finishedTree([
      { path: "gone", type: "hardlink", linkPath: "below" },
      { path: "gone", data: "replaced" },
      { path: "d/gone", type: "hardlink", linkPath: "below" },
      { path: "d", type: "symlink", linkPath: "e" },
      { path: "e", type: "directory" },
      { path: "was", data: "was" },
      { path: "was", type: "hardlink", linkPath: "x/y" },
      { path: "d/first", type: "hardlink", linkPath: "e/later" },
      { path: "d/second", type: "hardlink", linkPath: "/d/first" },
      { path: "e/later", data: "later" },
    ]);
    assert.deepEqual(shape(tree), {
      "/": "d 755",
      "/d": "le 644",
      "/e": "d 755",
      "/e/later": "f5 644",
      "/gone": "f8 644",
    });
    assert.deepEqual(
      danglingLinks.map(({ path, target }) => [path, target].map((b) => Buffer.from(b).toString())),
      [
        ["was", "x/y"],
        ["e/first", "e/later"],
        ["e/second", "e/later"],
      ],
    );
    refuses(
      [
        { path: "a", type: "hardlink", linkPath: "b" },
        { path: "a/x", data: "" },
      ],
      "corrupt",
      /"\/a" on its way is not a directory/,
    );
  });

  it("tells which directories have no entry", () => {
    const { tree, impliedDirectories } = finishedTree([
      { path: "a/b/f", data: "x" },
      { path: "a", type: "directory" },
      { path: "c", type: "directory" },
      { path: "c", type: "directory" },
    ]);
    assert.ok(impliedDirectories.has(tree.inode(0)));
    const implied = ["a", "a/b", "c"].map((path) => impliedDirectories.has(tree.inode(find(tree, path))));
    assert.deepEqual(implied, [false, true, false]);
    const rooted = finishedTree([{ path: "./", type: "directory" }]);
    assert.equal(rooted.impliedDirectories.size, 0);
  });

  it("refuses hard links to directories, and for overlayfs those to nothing and to later entries", () => {
    refuses(
      [{ path: "a", type: "hardlink", linkPath: "b" }],
      "corrupt",
      /tar entry "a": hard link to "b", which is not in the layer/,
      "overlay",
    );
    refuses([{ path: "a", type: "hardlink", linkPath: "b" }, { path: "b" }], "corrupt", /not in the layer/, "overlay");
    refuses(
      [
        { path: "d", type: "directory" },
        { path: "a", type: "hardlink", linkPath: "d" },
      ],
      "corrupt",
      /is a directory/,
    );
    refuses([{ path: "a", type: "hardlink", linkPath: "." }], "corrupt", /is a directory/);
    refuses(
      [{ path: "f" }, { path: "a", type: "hardlink", linkPath: "f/x" }],
      "corrupt",
      /"\/f" on its way is not a directory/,
    );
  });

  it("follows symbolic links on the way, inside the layer only", () => {
    const items: TarItem[] = [
      { path: "usr/lib", type: "directory" },
      { path: "lib", type: "symlink", linkPath: "usr/lib" },
      { path: "lib/libc", data: "libc" },
      { path: "out", type: "symlink", linkPath: "../../../abs" },
      { path: "out/f", data: "f" },
      { path: "usr/up", type: "symlink", linkPath: "/usr/./lib//" },
      { path: "usr/up/g", data: "g" },
      { path: "h", type: "hardlink", linkPath: "lib/libc" },
    ];
    assert.deepEqual(shapeOf(items), {
      "/": "d 755",
      "/abs": "d 755",
      "/abs/f": "f1 644",
      "/h": "f4 644",
      "/lib": "lusr/lib 644",
      "/out": "l../../../abs 644",
      "/usr": "d 755",
      "/usr/lib": "d 755",
      "/usr/lib/g": "f1 644",
      "/usr/lib/libc": "f4 644",
      "/usr/up": "l/usr/./lib// 644",
    });
  });

  it("refuses loops of symbolic links and files on the way", () => {
    const loop: TarItem[] = [
      { path: "a", type: "symlink", linkPath: "b" },
      { path: "b", type: "symlink", linkPath: "a" },
      { path: "a/x" },
    ];
    refuses(loop, "corrupt", /tar entry "a\/x": more than 40 symbolic links/);
    refuses([{ path: "f" }, { path: "f/x" }], "corrupt", /tar entry "f\/x": "\/f" on its way is not a directory/);
  });

  it("refuses sparse files that chunks cannot describe", () => {
    const pax = { "GNU.sparse.size": "4000", "GNU.sparse.map": "100,50" };
    refuses([{ path: "s", data: "x".repeat(50), pax }], "unsupported", /tar entry "s": sparse file/);
  });

  it("bounds the index that sparse files ask for", () => {
    const pax = { "GNU.sparse.size": String(2 ** 29), "GNU.sparse.map": "512,512" };
    const files = Array.from({ length: 5 }, (_, i): TarItem => ({ path: `s${i}`, data: "x".repeat(512), pax }));
    refuses(files, "limit", /tar entry "s4": sparse files need more than 4194304 chunks/);
  });

  it("is as deep as the limit", () => {
    const deep = (depth: number): TarItem => ({ path: "d/".repeat(depth), type: "directory" });
    assert.equal(Object.keys(shapeOf([deep(2000)])).length, 2001);
    const further: TarItem[] = [deep(2000), { path: "s", type: "symlink", linkPath: "d/".repeat(2000) }];
    refuses([...further, { path: `s/${"e/".repeat(100)}` }], "limit", /depth 2049/);
  });
});

describe("whiteouts", () => {
  const items: TarItem[] = [
    { path: "d/.wh.gone", mode: 0o600 },
    { path: "d/.wh..wh..opq" },
    { path: "d/new" },
    { path: "d", type: "directory", xattrs: { "user.own": "1" } },
    { path: ".wh..wh.aufs" },
    { path: ".wh..wh.plnk/3.4" },
  ];

  it("stay files unless told otherwise", () => {
    assert.deepEqual(Object.keys(shapeOf(items)), [
      "/",
      "/.wh..wh.aufs",
      "/.wh..wh.plnk",
      "/.wh..wh.plnk/3.4",
      "/d",
      "/d/.wh..wh..opq",
      "/d/.wh.gone",
      "/d/new",
    ]);
  });

  it("become what overlayfs understands", () => {
    assert.deepEqual(shapeOf(items, "overlay"), { "/": "d 755", "/d": "d 755", "/d/gone": "c 0", "/d/new": "f0 644" });
    const { tree } = treeOfTar(buildTar(items), "overlay");
    assert.equal(tree.inodes.rdev(tree.inode(find(tree, "d/gone"))), 0);
    assert.deepEqual(xattrs(tree, "d"), {
      "trusted.overlay.opaque": "y",
      "trusted.overlay.origin": "",
      "user.own": "1",
    });
  });

  it("never hide an entry of their own layer, in either order", () => {
    for (const order of [0, 1]) {
      const pair: TarItem[] = [{ path: ".wh.f" }, { path: "f", data: "here" }, { path: ".wh.d" }, { path: "d/x" }];
      const { tree } = treeOfTar(buildTar(order === 0 ? pair : pair.toReversed()), "overlay");
      assert.deepEqual(Object.keys(shape(tree)), ["/", "/d", "/d/x", "/f"]);
      // What the layers below have in d is gone, though d itself is not.
      assert.deepEqual(xattrs(tree, "d"), { "trusted.overlay.opaque": "y" });
      assert.deepEqual(xattrs(tree, "f"), {});
    }
  });

  it("must name something", () => {
    for (const name of [".wh.", ".wh..", ".wh..."])
      refuses([{ path: `d/${name}` }], "corrupt", /names no file to remove/, "overlay");
  });
});
