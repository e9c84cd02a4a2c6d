/** Every layer among the fixtures, and Debian, through each format: to a tar of the same digest, and to the tree that tar(1) makes. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, readFile, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { Cleanup } from "../../src/base/cleanup.js";
import { silentLog } from "../../src/base/log.js";
import { AtomicFile } from "../../src/cache/atomic-file.js";
import { unlimitedRoom } from "../../src/cache/room.js";
import { ContentDirectory } from "../../src/content/beside.js";
import { Destination } from "../../src/content/destination.js";
import { type ExportFormat, exportImage } from "../../src/content/export-image.js";
import { importLayer, type LayeredTree, openStores } from "../../src/content/import-image.js";
import { decodeStream, importStream } from "../../src/content/import-stream.js";
import { openMountableImage } from "../../src/image/mountable-image.js";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import { sharedFixture } from "../support/fixtures.js";
import { runProgram } from "../support/process.js";
import { requireRootAndFuse } from "../support/requires.js";
import { listDirectory } from "../support/tree-listing.js";
import { mountXfs } from "../support/xfs.js";

const { signal } = new AbortController();
const fixtures = [
  ...["v.tar", "gnu.tar", "pax.tar", "sp_gnu.tar", "sp_pax.tar"].map((name) => `splitfdstream/${name}`),
  ...["layer.tar.gz", "multi-member.tar.gz"].map((name) => `erofs-utils-1.9.3/${name}`),
];
const streams = ["tar", "splitfdstream", "splitdirfdstream"] as const;

/** A layer in a cache of its own on XFS, and what it is exported and imported to beside that. */
class Layer {
  private constructor(
    readonly directory: string,
    readonly diffId: Digest,
    readonly image: LayeredTree,
  ) {}

  static async open(t: TestContext, directory: string, path: string): Promise<Layer> {
    const stored = await readFile(path);
    const tar = path.endsWith(".gz") ? gunzipSync(stored) : stored;
    const cleanup = new Cleanup();
    t.after(() => cleanup[Symbol.asyncDispose]());
    const options = {
      source: `file:${path}`,
      insecure: false,
      verify: "blob",
      cacheDir: join(directory, "cache"),
    } as const;
    const opened = cleanup.add(await openMountableImage(options, silentLog));
    return new Layer(directory, digestOfBytes(tar), opened);
  }

  /** Its file, and what it names, which is nothing when there is no directory for that. */
  async export(format: ExportFormat, beside: boolean): Promise<{ path: string; content: string | undefined }> {
    const path = join(this.directory, `${format}-${beside}`);
    const content = beside ? `${path}-content` : undefined;
    await using directory = content === undefined ? undefined : await ContentDirectory.open(content);
    await using file = await AtomicFile.create(path);
    const options = { format, room: unlimitedRoom, content: directory ?? undefined, signal };
    await exportImage(this.image, options, (bytes) => file.append(bytes));
    await file.commit();
    return { path, content };
  }

  async import(format: (typeof streams)[number], beside: boolean): Promise<string> {
    const { path, content } = await this.export(format, beside);
    const target = join(this.directory, `tree-${format}-${beside}`);
    await using directory = content === undefined ? undefined : await ContentDirectory.open(content);
    await using destination = await Destination.create(target);
    await importStream(
      {
        events: decodeStream(createReadStream(path), format),
        diffId: this.diffId,
        whiteouts: "keep",
        ...(directory ? { directories: [directory.fd], filesDirectory: directory.fd } : {}),
        signal,
      },
      destination,
    );
    await destination.commit(false);
    return target;
  }

  /** From the content store. */
  async importCached(): Promise<string> {
    await using cleanup = new Cleanup();
    const [store] = await openStores(this.image.layers, unlimitedRoom, cleanup, signal);
    const [layer] = this.image.layers;
    assert.ok(store && layer);
    const target = join(this.directory, "tree-cached");
    await using destination = await Destination.create(target);
    await importLayer(layer, store, destination, "keep", signal);
    await destination.commit(false);
    return target;
  }
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return `sha256:${hash.digest("hex")}`;
}

/** All that the tar says something of; when a directory that it only implies was made is nobody's word. */
async function listingOf(directory: string, said: ReadonlySet<string>) {
  return (await listDirectory(directory))
    .filter(({ path }) => path !== "/")
    .map((entry) => (said.has(entry.path) ? entry : { ...entry, mtimeNs: "0" }));
}

async function unpack(tar: string, directory: string): Promise<string> {
  const target = join(directory, "unpacked");
  await mkdir(target);
  await runProgram("tar", ["-xpf", tar, "-C", target, "--numeric-owner", "--xattrs", "--xattrs-include=*"]);
  return target;
}

async function namesIn(tar: string): Promise<Set<string>> {
  const names = await runProgram("tar", ["-tf", tar, "--quoting-style=literal"]);
  return new Set(names.split("\n").map((name) => `/${name.replace(/^\.\//, "").replace(/\/$/, "")}`));
}

for (const name of fixtures) {
  test(`${name} through every format`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const layer = await Layer.open(t, await mountXfs(t), sharedFixture(name));
    const said = await namesIn(sharedFixture(name));
    const wanted = await listingOf(await unpack(sharedFixture(name), layer.directory), said);
    assert.ok(wanted.length > 0);
    for (const format of streams) {
      for (const beside of format === "tar" ? [false] : [false, true]) {
        const target = await layer.import(format, beside);
        assert.deepEqual(await listingOf(target, said), wanted, `${format} ${beside}`);
      }
    }
    assert.equal(await sha256Of((await layer.export("tar", false)).path), layer.diffId);
    assert.deepEqual(await listingOf(await layer.importCached(), said), wanted);
    // Sparse files are no whole files, which is what composefs' objects are.
    if (name.includes("/sp_")) return;
    const dumps = [await layer.export("composefs-dump", true), await layer.export("composefs-dump", false)];
    const [first, second] = await Promise.all(dumps.map(({ path }) => readFile(path, "latin1")));
    assert.equal(first, second, "the same dump each time");
    const objects = new Map<string, string>();
    for (const line of (first ?? "").trimEnd().split("\n")) {
      const [, size, , , , , , , payload = "-", , digest = "-"] = line.split(" ");
      if (digest === "-") continue;
      const object = join(dumps[0]?.content ?? "", payload);
      assert.equal((await stat(object)).size, Number(size), line);
      objects.set(object, `sha256:${digest} ${object}`);
    }
    const digests = objects.size === 0 ? "" : await runProgram("fsverity", ["digest", ...objects.keys()]);
    assert.deepEqual(
      digests.split("\n").filter((line) => line !== ""),
      [...objects.values()],
    );
  });
}

test("Debian through every format; what is larger than a block shares its extents with the cache", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const state = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "ocifs", "quickstart");
  // Half a minute, and making the layer another one: for those who have it, from scripts/quickstart or scripts/bench.
  if (!existsSync(join(state, "debian-bookworm.tar.gz")))
    return t.skip("there is no sample image; scripts/quickstart makes it");
  const layer = await Layer.open(t, await mountXfs(t, "2G"), join(state, "debian-bookworm.tar.gz"));
  const tar = await layer.export("tar", false);
  assert.equal(await sha256Of(tar.path), layer.diffId);
  await layer.import("splitfdstream", false);
  for (const target of [await layer.import("splitdirfdstream", true), await layer.importCached()]) {
    // Content, types, owners, modes and times; xattrs are compared with the fixtures.
    await runProgram("tar", ["--compare", "--numeric-owner", "-f", tar.path, "-C", target]);
    const large = [target, "-type", "f", "-size", "+4096c"];
    const extents = await runProgram("find", [...large, "-exec", "filefrag", "-v", "{}", "+"]);
    const lines = extents.split("\n").filter((line) => /^ +\d+:/.test(line));
    assert.ok(lines.length > 2000, `${lines.length} extents`);
    assert.deepEqual(
      lines.filter((line) => !/\bshared\b/.test(line)),
      [],
    );
  }
  const dump = await layer.export("composefs-dump", false);
  const first = await sha256Of(dump.path);
  await rm(dump.path);
  assert.equal(await sha256Of((await layer.export("composefs-dump", false)).path), first);
});
