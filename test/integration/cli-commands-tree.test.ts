import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { type Finished, MountSandbox, programLine } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { pushImage, startRegistry, type TestRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, pushSampleLayer, type SampleLayer, sampleBig } from "../support/sample-layer.js";
import { buildTar } from "../support/tar-builder.js";

const auth = { user: "somebody", password: "right" };
/** A step of more than a second says so on standard error, which depends on the machine. */
const withoutProgress = (stderr: string) => stderr.replaceAll(/^index of sha256:.*\n/gm, "");
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

interface Stage {
  readonly sandbox: MountSandbox;
  readonly layer: SampleLayer;
  readonly registry: TestRegistry;
  readonly reference: string;
  /** ocifs with the sandbox's cache; succeeds. */
  gives(args: readonly string[], stdin?: string): Promise<string>;
  /** Fails with one sentence. */
  fails(args: readonly string[], status: number, message: RegExp, stdin?: string): Promise<void>;
}

async function setStage(t: TestContext, withAuth = false): Promise<Stage> {
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const registry = await startRegistry(withAuth ? { auth } : {});
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "some/image", withAuth ? auth : undefined);
  const run = async (args: readonly string[], stdin = ""): Promise<Finished> => {
    const cache = args[0] === "status" ? [] : ["--cachedir", sandbox.cache];
    // Nobody's login counts here but the test's own.
    const env = {
      DOCKER_CONFIG: sandbox.directory,
      HOME: sandbox.directory,
    };
    return await sandbox.ocifs([...args, ...cache], { stdin, env });
  };
  return {
    sandbox,
    layer,
    registry,
    reference: `${registry.host}/some/image:1`,
    gives: async (args, stdin) => {
      const { status, stdout, stderr } = await run(args, stdin);
      assert.deepEqual([status, withoutProgress(stderr)], [0, ""], `${args.join(" ")}: ${stderr}`);
      return stdout;
    },
    fails: async (args, status, message, stdin) => {
      const result = await run(args, stdin);
      assert.match(withoutProgress(result.stderr), /^ocifs: [^\n]+\n$/);
      assert.match(result.stderr, message);
      assert.deepEqual([result.status, result.stdout], [status, ""], result.stderr);
    },
  };
}

test("index create puts the index into the cache, where ls, cat, stat and mount find it", async (t) => {
  const { sandbox, layer, reference, gives } = await setStage(t);
  const created = JSON.parse(await gives(["index", "create", reference, "--insecure", "--json"]));
  assert.deepEqual(Object.keys(created), ["tarindex", "zinfo", "json", "created", "manifest"]);
  const { manifest } = created;
  assert.equal(manifest.blob.digest, layer.digest);
  assert.equal(manifest.tar.digest, layer.diffId);
  assert.equal(manifest.tar.entryCount, 4);
  assert.deepEqual(JSON.parse(await readFile(created.json, "utf8")).tarindex, manifest.tarindex);
  assert.equal(manifest.tarindex.digest, digestOfBytes(await readFile(created.tarindex)));
  assert.ok(created.tarindex.startsWith(`${sandbox.cache}/indexes/sha256/`), created.tarindex);

  assert.equal(await gives(["ls", reference, "--insecure"]), "big\ndir\nhello\n");
  assert.equal(await gives(["cat", reference, "/hello", "--insecure"]), "hello \n");
  // By digest, whatever the source.
  assert.equal(await gives(["ls", `file:${layer.blobPath}`, "dir"]), "link\n");
});

test("index create writes the same three files into a directory, for a registry, a layout and a file", async (t) => {
  const { sandbox, layer, reference, gives } = await setStage(t);
  const layout = join(sandbox.directory, "layout");
  await runProgram("skopeo", ["copy", "--src-tls-verify=false", `docker://${reference}`, `oci:${layout}:1`]);
  const sources = {
    registry: [reference, "--insecure"],
    layout: [`oci:${layout}:1`],
    file: [`file:${layer.blobPath}`],
  };
  const contents: string[] = [];
  for (const [kind, source] of Object.entries(sources)) {
    const directory = join(sandbox.directory, `index-${kind}`);
    const said = await gives(["index", "create", ...source, "-o", directory]);
    const name = layer.digest.replace(":", "-");
    assert.deepEqual((await readdir(directory)).sort(), [`${name}.json`, `${name}.tarindex`, `${name}.zinfo`]);
    assert.equal(said.trimEnd().split("\n").length, 3);
    const files = await Promise.all([".tarindex", ".zinfo"].map((end) => readFile(join(directory, name + end))));
    contents.push(files.map(sha256).join());
    const words = ["--tarindex", join(directory, `${name}.tarindex`), "--zinfo", join(directory, `${name}.zinfo`)];
    assert.equal(await gives(["cat", ...source, "hello", ...words]), "hello \n");
  }
  assert.equal(new Set(contents).size, 1);
});

test("a layout made by umoci is read as well, whose tar stops after the last file's content", async (t) => {
  const { sandbox, gives } = await setStage(t);
  const layout = join(sandbox.directory, "umoci");
  await runProgram("umoci", ["init", "--layout", layout]);
  await runProgram("umoci", ["new", "--image", `${layout}:tag`]);
  await mkdir(join(sandbox.directory, "content/sub"), { recursive: true });
  await writeFile(join(sandbox.directory, "content/sub/file"), "by umoci");
  await runProgram("umoci", ["insert", "--image", `${layout}:tag`, join(sandbox.directory, "content"), "/content"]);
  await gives(["index", "create", `oci:${layout}:tag`]);
  assert.equal(await gives(["cat", `oci:${layout}:tag`, "/content/sub/file"]), "by umoci");
});

test("ls: names, -l, -R, --json; a file and a link", async (t) => {
  const { layer, gives } = await setStage(t);
  const source = [`file:${layer.blobPath}`, "--tarindex", layer.tarindex, "--zinfo", layer.zinfo];
  assert.equal(await gives(["ls", ...source, "-R"]), "/\n/big\n/dir\n/dir/link\n/hello\n");
  assert.equal(await gives(["ls", ...source, "hello"]), "/hello\n");
  const long = await gives(["ls", "-l", ...source, "dir"]);
  assert.match(
    long,
    /^MODE +LINKS +OWNER +SIZE +MODIFIED +NAME\nlrw\S+ +1 +0:0 +8 +1970-01-01T00:00:00Z +link -> \.\.\/hello\n$/,
  );
  const entries = JSON.parse(await gives(["ls", "--json", ...source]));
  const [big, dir] = entries;
  assert.deepEqual(
    entries.map((entry: { name: string }) => entry.name),
    ["big", "dir", "hello"],
  );
  assert.deepEqual([big.type, big.size, big.mode, big.nlink, dir.type], ["file", sampleBig.length, "0644", 1, "dir"]);
});

test("stat: attributes and xattrs, a link itself", async (t) => {
  const { sandbox, layer, gives } = await setStage(t);
  const source = [`file:${layer.blobPath}`, "--tarindex", layer.tarindex, "--zinfo", layer.zinfo];
  const link = JSON.parse(await gives(["stat", "--json", ...source, "/dir/link"]));
  assert.deepEqual([link.path, link.type, link.target, link.size], ["/dir/link", "symlink", "../hello", 8]);
  assert.match(await gives(["stat", ...source, "hello"]), /^path: \/hello\ntype: file\nmode: -rw-r--r--\n/);

  const blob = gzipSync(
    buildTar([{ path: "cap", data: "", xattrs: { "security.capability": Buffer.from([1, 0x80, 0xff]) } }]),
  );
  const path = join(sandbox.directory, "xattrs.tar.gz");
  await writeFile(path, blob);
  await gives(["index", "create", `file:${path}`]);
  const { xattrs } = JSON.parse(await gives(["stat", "--json", `file:${path}`, "cap"]));
  assert.deepEqual(xattrs, { "security.capability": Buffer.from([1, 0x80, 0xff]).toString("base64") });
  assert.match(await gives(["stat", `file:${path}`, "cap"]), /\nxattrs: security\.capability=AYD\/ \(base64\)\n/);
});

test("cat gives a big file byte for byte, and ends quietly when nobody reads on", async (t) => {
  const { sandbox, layer } = await setStage(t);
  const [node, program] = programLine("ocifs");
  const index = ["--tarindex", layer.tarindex, "--zinfo", layer.zinfo, "--cachedir", sandbox.cache];
  const start = () => {
    const args = [program, "cat", `file:${layer.blobPath}`, "big", ...index];
    return spawn(node, args, { stdio: ["ignore", "pipe", "pipe"] });
  };
  const whole = start();
  const hash = createHash("sha256");
  for await (const chunk of whole.stdout) hash.update(chunk as Buffer);
  assert.equal(hash.digest("hex"), sha256(sampleBig));

  const early = start();
  const said = text(early.stderr);
  const ended = once(early, "close");
  await once(early.stdout, "data");
  early.stdout.destroy();
  assert.deepEqual([await ended, await said], [[141, null], ""]);
});

test("ls of a long directory into head ends with the exit code of a broken pipe and no noise", async (t) => {
  const { sandbox, gives } = await setStage(t);
  const many = Array.from({ length: 40_000 }, (_, i) => ({ path: `file-${i}-${"x".repeat(40)}`, data: "" }));
  const path = join(sandbox.directory, "many.tar");
  await writeFile(path, buildTar(many));
  await gives(["index", "create", `file:${path}`]);
  const [node, program] = programLine("ocifs");
  const line = `"$@" | head -1; echo "\${PIPESTATUS[0]}"`;
  const args = ["--norc", "-c", line, "bash", node, program, "ls", `file:${path}`, "--cachedir", sandbox.cache];
  const shell = spawn("bash", args, { stdio: ["ignore", "pipe", "pipe"] });
  const [out, err] = await Promise.all([text(shell.stdout), text(shell.stderr)]);
  assert.deepEqual([out, err], [`file-0-${"x".repeat(40)}\n141\n`, ""]);
});

test("what is wrong is one sentence and exit code 1 or 2", async (t) => {
  const { sandbox, layer, reference, fails } = await setStage(t);
  const source = [`file:${layer.blobPath}`, "--tarindex", layer.tarindex, "--zinfo", layer.zinfo];
  await fails(["cat", ...source, "none"], 1, /none/);
  await fails(["ls", ...source, "hello/x"], 1, /hello/);
  await fails(["stat", ...source, "dir/none"], 1, /none/);
  await fails(["cat", ...source, "dir"], 2, /dir: it is not a regular file/);
  await fails(["cat", ...source], 2, /Not enough|path/i);
  await fails(["ls", `file:${sandbox.directory}/none`], 1, /none/);
  await fails(["ls", reference.replace(/:1$/, ":nosuch"), "--insecure"], 1, /some\/image:nosuch/);
  await fails(["index", "create", reference, "--insecure", "--layer", "3"], 1, /layer 3: the image has 1 layer/);
  await fails(["index", "create", reference, "--insecure", "--layer", "-1"], 2, /--layer/);
  await fails(["index", "create", reference, "--insecure", "--span", "1"], 2, /span size 1, want 64 KiB to 1 GiB/);
  await fails(["index", "create", reference, "--insecure", "--nosuch"], 2, /nosuch/);
  await fails(["index", "create", reference, "--insecure", "-o", layer.blobPath], 1, /layer\.tar\.gz/);
});

test("one layer of several is indexed and read by its number", async (t) => {
  const { sandbox, registry, gives } = await setStage(t);
  const layers = ["one", "two"].map((path) => {
    const tar = buildTar([{ path, data: path }]);
    return { bytes: gzipSync(tar), mediaType: mediaTypes.ociLayerGzip, diffId: digestOfBytes(tar) };
  });
  await pushImage(registry.host, { repository: "two/layers", tag: "1", layers });
  const reference = `${registry.host}/two/layers:1`;
  for (const [number, name] of ["one", "two"].entries()) {
    const create = ["index", "create", reference, "--insecure", "--layer", String(number), "--json"];
    const { status, stdout, stderr } = await sandbox.ocifs([...create, "--cachedir", sandbox.cache]);
    assert.equal(status, 0, stderr);
    assert.equal(withoutProgress(stderr), "");
    assert.equal(JSON.parse(stdout).manifest.blob.digest, digestOfBytes(layers[number]?.bytes ?? Buffer.alloc(0)));
    assert.equal(await gives(["cat", reference, name, "--insecure", "--layer", String(number)]), name);
  }
});

test("credentials come from --username and --password-stdin, or from a login", async (t) => {
  const { sandbox, layer, reference, gives, fails } = await setStage(t, true);
  const create = ["index", "create", reference, "--insecure", "-o", join(sandbox.directory, "index")];
  const asSomebody = [...create, "--username", auth.user, "--password-stdin"];
  assert.match(await gives(asSomebody, `${auth.password}\n`), /\.tarindex/);
  await fails(asSomebody, 1, /(401|credential|password|log ?in)/i, "wrong\n");
  await fails(asSomebody, 2, /--password-stdin: standard input is empty/, "");
  await fails([...create, "--username", auth.user], 2, /--username and --password-stdin go together/);
  await fails(create, 1, /(401|credential|password|log ?in)/i);
  // The sandbox is the home of the docker configuration; see setStage.
  const basic = Buffer.from(`${auth.user}:${auth.password}`).toString("base64");
  const host = reference.split("/")[0] ?? "";
  await writeFile(join(sandbox.directory, "config.json"), JSON.stringify({ auths: { [host]: { auth: basic } } }));
  const index = ["--tarindex", layer.tarindex, "--zinfo", layer.zinfo];
  assert.equal(await gives(["cat", reference, "hello", "--insecure", ...index]), "hello \n");
});

test("status: a table, JSON, and nothing when there are no mounts", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, reference, gives } = await setStage(t);
  assert.equal(await gives(["status"]), "no mounts\n");
  assert.deepEqual(JSON.parse(await gives(["status", "--json"])), { mounts: [] });
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mounted([reference, mountpoint, ...layer.words, "-o", "oci.insecure"]);
  assert.equal(await readFile(join(mountpoint, "hello"), "utf8"), "hello \n");
  const [title, row] = (await gives(["status"])).split("\n");
  assert.match(title ?? "", /^MOUNTPOINT +SOURCE +DRIVER +STATE +FETCHED +OF +SPANS +COMPLETE +HITS +ERRORS$/);
  assert.match(row ?? "", new RegExp(`^${mountpoint} +${reference} +fuse +ready +.* +1/3 +0/1 +\\d+% +0$`));
  const status = await sandbox.status(mountpoint);
  const [only] = status.layers;
  assert.deepEqual([only?.digest, only?.spans, only?.cachedSpans, only?.cache], [layer.digest, 3, 1, "disk"]);
  assert.ok(status.bytesFetched > 0 && status.bytesFetched <= status.bytesTotal);
  assert.equal(status.bytesFetched, only?.fetchedBytes);
  assert.match(status.manifestDigest ?? "", /^sha256:/);
  assert.ok(status.readMisses >= 1 && status.rssBytes > 0);
  // A socket that nobody listens at is what a killed daemon leaves.
  await runProgram("python3", [
    "-c",
    "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])",
    join(sandbox.runtime, "999999999.sock"),
  ]);
  assert.equal((await gives(["status"])).split("\n")[1], row);
  assert.equal((await readdir(sandbox.runtime)).includes("999999999.sock"), false);
  await sandbox.unmount(mountpoint);
});
