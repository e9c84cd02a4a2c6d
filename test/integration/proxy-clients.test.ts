/** The proxy as other programs use it: `ocifs proxy` before a real registry, behind skopeo, containerd and ocifs. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { runProgram, type StartedProcess, startProcess } from "../support/process.js";
import { content } from "../support/proxy.js";
import { pushImage, startRegistry } from "../support/registry.js";
import { skipOrFail } from "../support/requires.js";
import { buildTar } from "../support/tar-builder.js";
import { tempDirectory } from "../support/temp.js";
import { createCertificate } from "../support/token-server.js";

const ocifs = fileURLToPath(new URL("../../src/cli/ocifs.js", import.meta.url));

interface Setup {
  readonly directory: string;
  readonly registry: string;
  readonly accessLog: string;
  readonly layer: Buffer;
}

async function setUp(t: TestContext): Promise<Setup> {
  const directory = await tempDirectory(t);
  const accessLog = join(directory, "access.log");
  const registry = await startRegistry({ accessLogPath: accessLog });
  t.after(() => registry.stop());
  const tar = buildTar([
    { path: "hello", data: "hello\n" },
    { path: "noise", data: content(1 << 20) },
  ]);
  const layer = gzipSync(tar);
  const layers = [{ bytes: layer, mediaType: mediaTypes.ociLayerGzip, diffId: digestOfBytes(tar) }];
  await pushImage(registry.host, { repository: "team/app", tag: "v1", layers });
  return { directory, registry: registry.host, accessLog, layer };
}

async function startProxy(
  t: TestContext,
  { directory, registry }: Setup,
  ...words: string[]
): Promise<StartedProcess & { url: URL }> {
  const args = ["proxy", "--listen", "127.0.0.1:0", "--upstream", registry, "--insecure", "--auth", "none"];
  const started = await startProcess(
    process.execPath,
    [ocifs, ...args, "--cachedir", join(directory, "cache"), ...words],
    /listens on (http\S+)$/,
  );
  t.after(() => started.stop());
  return { ...started, url: new URL(started.match[1] ?? "") };
}

/** GETs of the layer that reached the registry. */
async function layerFetches({ accessLog, layer }: Setup): Promise<number> {
  const lines = (await readFile(accessLog, "utf8")).split("\n");
  return lines.filter((line) => line.includes("GET") && line.includes(digestOfBytes(layer))).length;
}

test("skopeo copies an image through the proxy over TLS, twice for one download, and SIGTERM ends it", async (t) => {
  const made = await setUp(t);
  const { directory, layer } = made;
  await createCertificate(directory, "ca");
  const [cert, key] = [join(directory, "ca.crt"), join(directory, "ca.key")];
  const { url, child } = await startProxy(t, made, "--tls-cert", cert, "--tls-key", key);
  assert.equal(url.protocol, "https:");
  const trusted = join(directory, "trusted");
  await mkdir(trusted);
  await writeFile(join(trusted, "ca.crt"), await readFile(cert));
  for (const name of ["one", "two"]) {
    const words = ["copy", "-q", "--src-cert-dir", trusted, `docker://${url.host}/team/app:v1`];
    await runProgram("skopeo", [...words, `dir:${join(directory, name)}`]);
    const copied = await readFile(join(directory, name, digestOfBytes(layer).slice("sha256:".length)));
    assert.ok(copied.equals(layer));
  }
  assert.equal(await layerFetches(made), 1);
  const exit = once(child, "exit");
  child.kill("SIGTERM");
  assert.deepEqual(await exit, [0, null]);
});

test("ocifs reads an image through the proxy", async (t) => {
  const made = await setUp(t);
  const { url } = await startProxy(t, made);
  const image = `${url.host}/team/app:v1`;
  const words = ["--insecure", "--cachedir", join(made.directory, "client-cache")];
  await runProgram(process.execPath, [ocifs, "index", "create", image, ...words]);
  assert.equal(await runProgram(process.execPath, [ocifs, "cat", image, "/hello", ...words]), "hello\n");
});

test("containerd pulls through the proxy as a mirror", async (t) => {
  if (process.geteuid?.() !== 0) return skipOrFail(t, "containerd needs root; run scripts/test as root");
  const made = await setUp(t);
  const { directory, layer } = made;
  const { url } = await startProxy(t, made);
  const socket = join(directory, "containerd.sock");
  const config = join(directory, "containerd.toml");
  const snapshotters = ["aufs", "btrfs", "devmapper", "zfs", "overlayfs"].map((name) => `snapshotter.v1.${name}`);
  // The last one would make a directory in /opt.
  const disabled = ["grpc.v1.cri", ...snapshotters, "internal.v1.opt"].map((name) => `"io.containerd.${name}"`);
  await writeFile(
    config,
    `version = 2
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = [${disabled.join(", ")}]
[grpc]
address = "${socket}"
[ttrpc]
address = "${socket}.ttrpc"
`,
  );
  const containerd = await startProcess("containerd", ["--config", config], /containerd successfully booted/);
  t.after(() => containerd.stop());
  // Where containerd would go without the mirror there is nobody.
  const hosts = join(directory, "certs.d", made.registry);
  await mkdir(hosts, { recursive: true });
  await writeFile(
    join(hosts, "hosts.toml"),
    `server = "https://registry.invalid"\n[host."${url.origin}"]\ncapabilities = ["pull", "resolve"]\n`,
  );
  const pull = ["images", "pull", "--hosts-dir", join(directory, "certs.d"), "--snapshotter", "native"];
  await runProgram("ctr", ["--address", socket, ...pull, `${made.registry}/team/app:v1`]);
  const listed = await runProgram("ctr", ["--address", socket, "content", "ls", "-q"]);
  assert.ok(listed.includes(digestOfBytes(layer)), listed);
});

test("arguments that do not go together are refused with a sentence", async (t) => {
  const directory = await tempDirectory(t);
  const base = ["--upstream", "registry.example", "--cachedir", directory];
  const cases: [words: string[], message: RegExp][] = [
    [["--listen", "0.0.0.0:0", ...base], /others can reach it/],
    [["--listen", "nonsense", ...base], /want HOST:PORT/],
    [["--listen", "127.0.0.1:0", ...base, "--tls-cert", "x"], /go together/],
    [["--listen", "127.0.0.1:0", ...base, "--upstream", "not/a/host"], /want HOST/],
    [["--listen", "192.0.2.1:1", ...base, "--auth", "none"], /listen on 192\.0\.2\.1:1/],
  ];
  for (const [words, message] of cases) {
    await assert.rejects(runProgram(process.execPath, [ocifs, "proxy", ...words]), message);
  }
});
