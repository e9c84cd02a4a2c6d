import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { checkErofs } from "../support/erofs-fsck.js";
import { repositoryRoot } from "../support/fixtures.js";
import { cannotMountErofs, listTree, mountErofs } from "../support/kernel-erofs.js";
import { unpackWithUmoci, writeMerged } from "../support/merged-mount.js";
import { layersOf, layerWishes } from "../support/random-layers.js";
import { buildTar, type TarItem } from "../support/tar-builder.js";
import { tempDirectory } from "../support/temp.js";

const run = promisify(execFile);
const directory = (path: string, rest: Partial<TarItem> = {}): TarItem => ({
  path,
  type: "directory",
  mtime: 5,
  ...rest,
});
const link = (path: string, linkPath: string): TarItem => ({ path, type: "hardlink", linkPath });
const symlink = (path: string, linkPath: string): TarItem => ({
  path,
  type: "symlink",
  linkPath,
  mode: 0o777,
  mtime: 6,
});
const whiteout = (path: string): TarItem => ({ path });

interface Listed {
  readonly path: string;
  readonly mtime_ns: number;
}

/** By path. Directories that no layer describes have the time umoci made them at; ours have one that is the same each time. */
function comparable(lines: readonly string[], made: ReadonlySet<string>): Map<string, unknown> {
  return new Map(
    lines.map((line) => {
      const { mtime_ns, ...entry } = JSON.parse(line) as Listed;
      return [entry.path, { ...entry, mtime: made.has(entry.path) ? "made" : mtime_ns }];
    }),
  );
}

/** The times in these tests are of long ago. */
function madeNow(lines: readonly string[], since: number): Set<string> {
  return new Set(
    lines
      .map((line) => JSON.parse(line) as Listed)
      .filter(({ mtime_ns }) => mtime_ns / 1e6 >= since - 1000)
      .map(({ path }) => path),
  );
}

/** Mounts the merged image with the kernel, unpacks it with umoci, and finds no difference. Gives the paths in it. */
async function sameAsUmoci(t: TestContext, tars: readonly Uint8Array[], mayMake = 0): Promise<Set<string>> {
  const base = await tempDirectory(t);
  const since = Date.now();
  const { tarindex, devices } = await writeMerged(join(base, "merged"), tars);
  await using mount = await mountErofs(tarindex, devices);
  const [ours, theirs] = await Promise.all([listTree(mount.directory), unpackWithUmoci(base, tars).then(listTree)]);
  const made = madeNow(theirs, since);
  assert.ok(made.size <= mayMake, [...made].join(" "));
  const [got, want] = [comparable(ours, made), comparable(theirs, made)];
  for (const [path, entry] of want) assert.deepEqual(got.get(path), entry, path);
  assert.deepEqual([...got.keys()], [...want.keys()]);
  await checkErofs(tarindex, devices);
  return new Set(got.keys());
}

describe("a merged image is what umoci unpacks", { skip: cannotMountErofs }, () => {
  it("of Debian in five layers", async (t) => {
    const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "ocifs", "quickstart");
    await run(join(repositoryRoot, "scripts", "sample-image"), [cache]);
    const debian = gunzipSync(await readFile(join(cache, "debian-bookworm.tar.gz")));
    const paths = await sameAsUmoci(t, [
      debian,
      buildTar([
        whiteout("usr/share/.wh.doc"),
        whiteout("etc/.wh.motd"),
        whiteout("usr/bin/.wh.perl"),
        { path: "usr/bin/gzip", data: "#!/bin/sh\n", mode: 0o755, mtime: 100 },
        directory("etc", { mode: 0o751, uid: 7, gid: 8, mtime: 200 }),
        { path: "etc/hostname", data: "merged\n", mtime: 201 },
      ]),
      buildTar([
        { path: "usr/share/common-licenses", data: "was a directory", mtime: 300 },
        directory("usr/share/zoneinfo", { mtime: 301 }),
        whiteout("usr/share/zoneinfo/.wh..wh..opq"),
        { path: "usr/share/zoneinfo/UTC", data: "TZif", mtime: 302 },
        // Through the symbolic link that /bin is.
        { path: "bin/merged-tool", data: "tool", mode: 0o4755, mtime: 303 },
        link("usr/bin/perl-again", "usr/bin/perl5.36.0"),
      ]),
      buildTar([
        link("etc/passwd-link", "etc/passwd"),
        link("lib/os-release-link", "lib/os-release"),
        { path: "etc/os-release", data: "replaces a symbolic link", mtime: 400 },
        symlink("usr/share/perl5", "perl"),
        {
          path: "usr/sbin/capable",
          data: "x",
          mtime: 401,
          xattrs: { "security.capability": Buffer.from("0100000200240000000000000000000000000000", "hex") },
        },
      ]),
      buildTar([
        whiteout("etc/.wh.passwd"),
        whiteout("usr/share/.wh.locale"),
        directory("usr/share/locale", { mtime: 500 }),
        directory("usr/share/doc", { mode: 0o700, mtime: 501 }),
        directory("./", { mode: 0o755, mtime: 502 }),
      ]),
    ]);
    for (const path of [
      "/etc/passwd-link",
      "/usr/bin/merged-tool",
      "/usr/bin/perl-again",
      "/usr/lib/os-release-link",
    ]) {
      assert.ok(paths.has(path), path);
    }
    for (const path of ["/etc/passwd", "/etc/motd", "/usr/bin/perl", "/usr/share/common-licenses/GPL-3"]) {
      assert.ok(!paths.has(path), path);
    }
    assert.ok(paths.size > 3000);
  });

  it("of layers made to be hard", async (t) => {
    const base: TarItem[] = [
      directory("./"),
      directory("real", { mode: 0o750, uid: 3, xattrs: { "user.r": "1" } }),
      directory("real/deep"),
      { path: "real/old", data: "old", mtime: 7 },
      symlink("to-real", "real"),
      symlink("escape", "../../../../real/deep"),
      symlink("absolute", "/real"),
      symlink("chain", "absolute/deep"),
      { path: "one", data: "linked", mtime: 8 },
      link("two", "one"),
      link("real/three", "two"),
      { path: "-dash", data: "d", mtime: 9 },
      directory("!d"),
      { path: "!d/gone", mtime: 9 },
      { path: Buffer.from("caf\xe9\x01\n", "latin1"), data: "bytes", mtime: 10 },
      { path: "n".repeat(255), data: "long", mtime: 11 },
      { path: "null", type: "char", device: [1, 3], mtime: 12 },
      { path: "odd", type: "block", device: [300, 70000], mtime: 12 },
      { path: "pipe", type: "fifo", mtime: 12 },
    ];
    const upper: TarItem[] = [
      whiteout("to-real/.wh.old"),
      { path: "to-real/new", data: "new", mtime: 20 },
      { path: "escape/1", data: "1", mtime: 21 },
      { path: "chain/2", data: "22", mtime: 22 },
      link("chain/3", "to-real/three"),
      whiteout(".wh.one"),
      whiteout(".wh.-dash"),
      // First: umoci would leave the directory with the time at which it removed what is below.
      whiteout(".wh.!d"),
      directory("!d", { mode: 0o711 }),
      { path: "!d/kept", data: "kept", mtime: 23 },
      directory("null"),
      { path: "null/in", data: "in", mtime: 24 },
      { path: "pipe", data: "now a file", mtime: 25 },
      whiteout("nowhere/.wh.x"),
      whiteout("two/.wh.x"),
    ];
    const top: TarItem[] = [
      directory("real", { mode: 0o700, mtime: 30 }),
      directory("absolute", { mtime: 31 }),
      { path: "absolute/own", data: "own", mtime: 31 },
      whiteout("real/deep/.wh..wh..opq"),
      { path: "real/deep/late", data: "late", mtime: 32 },
      link("resurrected", "two"),
      { path: "two", data: "apart now", mtime: 33 },
      // Kept in order: a tar may say things twice.
      { path: "twice", data: "first", mtime: 34 },
      { path: "twice", data: "second", mtime: 35 },
    ];
    const paths = await sameAsUmoci(
      t,
      [base, upper, [], top, []].map((items) => buildTar(items)),
    );
    assert.ok(paths.has("/resurrected") && paths.has("/real/new") && !paths.has("/one"));
  });

  it("of a hundred layers", async (t) => {
    const [wishes = []] = fc.sample(layerWishes(100, 12, 100), { seed: 20, numRuns: 1 });
    const { layers } = layersOf(wishes);
    assert.equal(layers.length, 101);
    const paths = await sameAsUmoci(
      t,
      layers.map((items) => buildTar(items)),
      20,
    );
    assert.ok(paths.size > 20, `${paths.size}`);
  });
});
