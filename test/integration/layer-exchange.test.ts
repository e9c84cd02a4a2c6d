import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ChunkDecoder } from "../../src/splitfd/framing.js";
import { splitDirFdFraming } from "../../src/splitfd/splitdirfdstream.js";
import { sharedFixture } from "../support/fixtures.js";
import { programLine, runCommand } from "../support/mounted-image.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, type SampleLayer, sampleBig } from "../support/sample-layer.js";
import { tempDirectory } from "../support/temp.js";
import { mountXfs } from "../support/xfs.js";

let directory: string;
let layer: SampleLayer;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), "ocifs-test-"));
  layer = await makeSampleLayer(directory);
});
after(() => rm(directory, { recursive: true, force: true }));

async function ocifs(args: readonly string[], fails?: RegExp): Promise<string> {
  const { status, stdout, stderr } = await runCommand([...programLine("ocifs"), ...args]);
  if (fails) {
    assert.equal(status, 1, stderr);
    assert.match(stderr, fails);
  } else {
    assert.equal(status, 0, stderr);
  }
  return stdout;
}

const source = () => [`file:${layer.blobPath}`, "--cachedir", join(directory, "cache")];

async function checkTree(path: string): Promise<void> {
  assert.deepEqual((await readdir(path, { recursive: true })).sort(), ["big", "dir", "dir/link", "hello"]);
  assert.ok((await readFile(join(path, "big"))).equals(sampleBig));
  assert.equal(await readFile(join(path, "dir/link"), "utf8"), "hello \n");
}

for (const format of ["tar", "splitfdstream", "splitdirfdstream"] as const) {
  for (const where of format === "tar" ? ["inline"] : ["inline", "beside"]) {
    test(`${format}, contents ${where}: from the cache to a file to a directory`, async (t) => {
      const path = await tempDirectory(t);
      const content = where === "beside" ? ["--content", join(path, "content")] : [];
      const stream = join(path, "stream");
      await ocifs(["export", ...source(), "--format", format, "-o", stream, ...content]);
      if (where === "beside") assert.ok((await stat(stream)).size < 10_000);
      const target = join(path, "tree");
      const importing = ["import", stream, "--stream", format, ...content, "--diff-id"];
      await ocifs([...importing, layer.diffId, target]);
      await checkTree(target);
      // What is there stays, and another tar's digest makes nothing.
      await ocifs([...importing, layer.diffId, target], /exists already/);
      await ocifs([...importing, layer.digest, join(path, "other")], /has digest/);
      await truncate(stream, (await stat(stream)).size - 1);
      await ocifs([...importing, layer.diffId, join(path, "other")], /ends at byte|has digest/);
      assert.deepEqual(
        (await readdir(path)).filter((name) => name.startsWith(".") || name === "other"),
        [],
      );
    });
  }
}

test("an image and a layer come from the cache, and share extents where the file system can", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const xfs = await mountXfs(t);
  const from = [`file:${layer.blobPath}`, "--cachedir", join(xfs, "cache")];
  for (const choice of [[], ["--layer", "0"]]) {
    const target = join(xfs, `tree${choice.length}`);
    const counts = JSON.parse(await ocifs(["import", ...from, ...choice, target, "--json"]));
    assert.equal(counts.cloned, 1);
    await checkTree(target);
    assert.match(execFileSync("filefrag", ["-v", join(target, "big")], { encoding: "utf8" }), /shared/);
  }
  const stream = join(xfs, "stream");
  const content = join(xfs, "content");
  await ocifs(["export", ...from, "--format", "splitdirfdstream", "-o", stream, "--content", content]);
  await ocifs([
    "import",
    stream,
    "--stream",
    "splitdirfdstream",
    "--content",
    content,
    "--diff-id",
    layer.diffId,
    join(xfs, "again"),
  ]);
  assert.match(execFileSync("filefrag", ["-v", join(xfs, "again", "big")], { encoding: "utf8" }), /shared/);
});

test("a name that is a symbolic link, a FIFO or a file of another size is not followed", async (t) => {
  const path = await tempDirectory(t);
  const content = join(path, "content");
  const stream = join(path, "stream");
  await ocifs(["export", ...source(), "--format", "splitdirfdstream", "-o", stream, "--content", content]);
  const names: string[] = [];
  for (const event of new ChunkDecoder(splitDirFdFraming).push(await readFile(stream))) {
    if (event.kind === "reference" && event.to.kind === "name") names.push(Buffer.from(event.to.name).toString());
  }
  const [name = ""] = names;
  assert.equal(names.length, 1);
  const object = join(content, name);
  const bytes = await readFile(object);
  const importing = [
    "import",
    stream,
    "--stream",
    "splitdirfdstream",
    "--content",
    content,
    "--diff-id",
    layer.diffId,
    join(path, "t"),
  ];
  await rm(object);
  await ocifs(importing, /No such file/);
  await writeFile(join(path, "outside"), bytes);
  await symlink(join(path, "outside"), object);
  await ocifs(importing, /symbolic links/);
  await rm(object);
  execFileSync("mkfifo", [object]);
  await ocifs(importing, /no regular file/);
  await rm(object);
  await writeFile(object, bytes.subarray(1));
  await ocifs(importing, /want 3000000/);
  await writeFile(object, Buffer.alloc(bytes.length));
  await ocifs(importing, /has digest/);
  assert.deepEqual(await readdir(path).then((all) => all.filter((each) => each.startsWith("."))), []);
  await writeFile(object, bytes);
  await ocifs(importing);
  await checkTree(join(path, "t"));
});

test("a composefs dump is the one that mkcomposefs' own tools make", async (t) => {
  const path = await tempDirectory(t);
  const from = [
    `file:${sharedFixture("splitfdstream/v.tar")}`,
    "--cachedir",
    join(path, "cache"),
    "--format",
    "composefs-dump",
  ];
  const dump = await ocifs(["export", ...from, "--content", join(path, "objects")]);
  // The tar says nothing of its root, where we take 0755 and the vector was made by hand with the same.
  assert.equal(dump, await readFile(sharedFixture("splitfdstream/dump"), "utf8"));
  assert.equal(await ocifs(["export", ...from]), dump);
  const digest = "57f742aa6bc8b0333848b2a19b5593e52d318917f619e5e2e940f651aacc37b7";
  const object = join(path, "objects", digest.slice(0, 2), digest.slice(2));
  assert.equal((await readFile(object)).toString(), "A".repeat(700));
  assert.match(execFileSync("fsverity", ["digest", object], { encoding: "utf8" }), new RegExp(digest));
});

test("an EROFS image is the index with the tar behind it", async (t) => {
  const path = await tempDirectory(t);
  const image = join(path, "image");
  await ocifs(["export", ...source(), "--format", "erofs", "-o", image]);
  const { size } = await stat(layer.tarindex);
  const bytes = await readFile(image);
  assert.ok(bytes.subarray(0, size).equals(await readFile(layer.tarindex)));
  assert.ok(bytes.subarray(size).includes(sampleBig));
  assert.equal(bytes.readUInt32LE(1024), 0xe0f5e1e2);
});
