/** What others on the machine, and a hostile image, can get at while an image is mounted. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { lstat, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import type { Handler } from "../support/faulty-server.js";
import { serveJson } from "../support/faulty-server.js";
import { ImageServer } from "../support/image-server.js";
import { makeLayerFixture } from "../support/layer-fixture.js";
import { MountSandbox, processEnd, programLine, runCommand } from "../support/mounted-image.js";
import { requireRootAndFuse } from "../support/requires.js";
import { buildTar } from "../support/tar-builder.js";
import { createCertificate } from "../support/token-server.js";

const USER = "alice";
const PASSWORD = "pa55word-of-alice";
const TOKEN = "t0ken-of-the-registry";
const SIGNATURE = "s1gnature-of-the-store";
const BASIC = Buffer.from(`${USER}:${PASSWORD}`).toString("base64");

async function startServer(t: TestContext, tls?: { key: string; cert: string }) {
  const fixture = await makeLayerFixture(t, { files: { big: 400_000, small: 100 } });
  const server = await ImageServer.start(fixture, tls);
  t.after(() => server[Symbol.asyncDispose]());
  return { fixture, server };
}

/** A registry that wants a token, whose layers are behind signed URLs, and that echoes what it was sent in its errors. */
function guarded(server: ImageServer): Handler {
  let failures = 2;
  return (request, response) => {
    const { authorization = "" } = request.headers;
    const echo = { errors: [{ code: "DENIED", message: `not with ${authorization} at ${request.url}` }] };
    if (request.url.startsWith("/token")) {
      if (authorization === `Basic ${BASIC}`) serveJson(response, 200, { token: TOKEN, expires_in: 300 });
      else serveJson(response, 401, echo);
    } else if (request.url.startsWith("/store")) {
      // Some trouble, so that there is something to be logged.
      if (failures-- > 0) serveJson(response, 503, echo);
      else server.serveLayer(request, response);
    } else if (authorization !== `Bearer ${TOKEN}`) {
      const realm = `Bearer realm="http://${server.server.host}/token",service="s"`;
      serveJson(response, 401, echo, { "www-authenticate": realm });
    } else if (request.url.includes("/manifests/") || server.blobRequests < 0) server.handle(request, response);
    else {
      server.fault = (_, answer) =>
        answer.writeHead(307, { location: `http://${server.server.host}/store?X-Amz-Signature=${SIGNATURE}` }).end();
      server.handle(request, response);
    }
  };
}

function assertNoSecrets(text: string, where: string): void {
  for (const secret of [PASSWORD, BASIC, TOKEN, SIGNATURE]) {
    assert.ok(!text.includes(secret), `${where} shows ${secret}: ${text.slice(0, 500)}`);
  }
}

/** Arguments and environment of every process that has our runtime directory: helper, daemon, and what they start. */
async function assertProcessesShowNothing(sandbox: MountSandbox): Promise<number> {
  let seen = 0;
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    const environment = await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "");
    if (!environment.includes(sandbox.runtime)) continue;
    seen++;
    assertNoSecrets(environment, `environment of ${pid}`);
    assertNoSecrets(await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => ""), `arguments of ${pid}`);
  }
  return seen;
}

test("credentials are in no log, no message, no environment and no arguments", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const { fixture, server } = await startServer(t);
  server.server.handle(guarded(server));
  const mountpoint = await sandbox.mountpoint();
  const log = join(sandbox.directory, "daemon.log");
  const passwordFile = join(sandbox.directory, "password");
  await writeFile(passwordFile, `${PASSWORD}\n`, { mode: 0o600 });
  const options = `oci.insecure,oci.username=${USER},log=debug:${log}`;

  const wrong = await sandbox.mount([server.reference, mountpoint, "-o", `${options},oci.password=${PASSWORD}x`]);
  assert.equal(wrong.status, 32, wrong.stderr);
  assertNoSecrets(wrong.stderr, "the message about a wrong password");

  const done = await sandbox.mount([
    server.reference,
    mountpoint,
    "-v",
    "-o",
    `${options},oci.password_file=${passwordFile}`,
  ]);
  assert.equal(done.status, 0, done.stderr);
  assertNoSecrets(done.stderr, "the helper's output");
  assert.deepEqual(await readFile(join(mountpoint, "big")), fixture.files.get("big"));
  assert.ok((await assertProcessesShowNothing(sandbox)) >= 1);
  const { stdout } = await sandbox.ocifs(["status", "--json"]);
  assertNoSecrets(stdout, "ocifs status");
  assertNoSecrets(await readFile("/proc/self/mountinfo", "utf8"), "mountinfo");
  await sandbox.unmount(mountpoint);
  const logged = await readFile(log, "utf8");
  assert.match(logged, /mounted/);
  assertNoSecrets(logged, "the log");
});

test("a password given as an argument does not stay in the process list", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const { server } = await startServer(t);
  server.server.handle(guarded(server));
  const mountpoint = await sandbox.mountpoint();
  const words = `foreground,oci.insecure,oci.username=${USER},oci.password=${PASSWORD},cachedir=${sandbox.cache}`;
  const [node, program] = programLine("mount.ocifs");
  const child = spawn(node, [program, server.reference, mountpoint, "-o", words], {
    env: { ...process.env, ...sandbox.env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  t.after(() => child.kill("SIGKILL"));
  const said: string[] = [];
  for await (const line of createInterface({ input: child.stderr })) {
    said.push(line);
    if (line.includes("is ready")) break;
  }
  assert.match(said.join("\n"), /is ready/);
  assert.equal(await assertProcessesShowNothing(sandbox), 1);
  child.stderr.resume();
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  assert.deepEqual((await exited)[0], 0);
});

test("whatever the umask is, cache, socket and log are for their owner only", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const { fixture, server } = await startServer(t);
  const mountpoint = await sandbox.mountpoint();
  const prefix = ["sh", "-c", 'umask 0; exec "$@"', "sh"];
  await sandbox.mountedFirst([server.reference, mountpoint, "-o", "oci.insecure,prefetch=all"], { prefix });
  assert.deepEqual(await readFile(join(mountpoint, "big")), fixture.files.get("big"));
  for (const args of [
    ["index", "create", server.reference, "--insecure", "--cachedir", `${sandbox.cache}2`],
    ["cat", server.reference, "small", "--insecure", "--cachedir", `${sandbox.cache}2`],
  ]) {
    const { status, stderr } = await sandbox.ocifs(args, { prefix });
    assert.equal(status, 0, stderr);
  }
  let files = 0;
  for (const top of [sandbox.cache, `${sandbox.cache}2`, sandbox.runtime]) {
    const entries = await readdir(top, { recursive: true });
    for (const path of [top, ...entries.map((name) => join(top, name))]) {
      const info = await lstat(path);
      assert.equal(info.mode & 0o777, info.isDirectory() ? 0o700 : 0o600, path);
      files += info.isDirectory() ? 0 : 1;
    }
  }
  assert.ok(files > 10, `${files} files`);
  const { keeperPid } = await sandbox.status(mountpoint);
  assert.ok((await lstat(join(sandbox.runtime, `${keeperPid}.sock`))).isSocket());
  await sandbox.unmount(mountpoint);
});

/** Names that would lead a program that unpacks them out of its directory. `out` exists, and must stay as it is. */
function hostileTar(out: string): Buffer {
  const up = "../".repeat(30);
  return buildTar([
    { path: `${up}${out.slice(1)}/escaped-1`, data: "1" },
    { path: `${out}/escaped-2`, data: "2" },
    { path: "link", type: "symlink", linkPath: out },
    { path: "link/escaped-3", data: "3" },
    { path: "dot/../../../escaped-4", data: "4" },
    { path: "hard", type: "hardlink", linkPath: `${up}${out.slice(1)}/precious` },
    { path: `${out}/.wh.precious`, data: "" },
    { path: `.wh.${"x".repeat(20)}`, data: "" },
    { path: "back\\..\\slash", data: "5" },
    { path: "new\nline", data: "6" },
    { path: "good", data: "good" },
  ]);
}

test("nothing is written outside the cache, whatever a layer's names are", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const out = join(sandbox.directory, "out");
  await mkdir(out);
  await writeFile(join(out, "precious"), "precious");
  const layer = join(sandbox.directory, "layer.tar.gz");
  const tars = [
    hostileTar(out),
    buildTar([
      { path: "link/x", data: "x" },
      { path: "..", type: "directory" },
    ]),
  ];
  const mountpoint = await sandbox.mountpoint();
  for (const tar of tars) {
    await writeFile(layer, gzipSync(tar));
    // The whole machine is read-only in there, but for cache and sockets: a write anywhere else is an error that would show.
    await mkdir(sandbox.cache, { recursive: true, mode: 0o700 });
    await mkdir(sandbox.runtime, { recursive: true, mode: 0o700 });
    const script = `
set -e
for keep in "$2" "$3"; do mount --bind "$keep" "$keep"; done
for each in $(awk '{print $2}' /proc/mounts); do
  case $each in /proc|/proc/*|/sys|/sys/*|/dev|/dev/*|"$2"|"$3") ;; *) mount -o remount,bind,ro "$each" ;; esac
done
if touch "$5/probe" 2>/dev/null; then echo "the sandbox leaks" >&2; exit 9; fi
shift_source=$1; cache=$2; mountpoint=$4; node=$6; mount_program=$7; ocifs_program=$8
"$node" "$ocifs_program" index create "$shift_source" --cachedir "$cache" >&2 || exit 7
"$node" "$ocifs_program" ls "$shift_source" / --cachedir "$cache" >&2
"$node" "$mount_program" "$shift_source" "$mountpoint" -o "cachedir=$cache,prefetch=all"
find "$mountpoint" -type f -exec cat {} + >/dev/null
find "$mountpoint" -type f | wc -l
umount "$mountpoint"
`;
    const [node, mountProgram] = programLine("mount.ocifs");
    const [, ocifsProgram] = programLine("ocifs");
    const args = [`file:${layer}`, sandbox.cache, sandbox.runtime, mountpoint, out, node, mountProgram, ocifsProgram];
    const line = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script, "bash", ...args];
    const { status, stdout, stderr } = await runCommand(line, { env: sandbox.env });
    // A layer may be refused for its names, in a sentence; served or not, it has written nothing.
    if (status !== 7) assert.deepEqual([status, Number(stdout) > 0], [0, true], stderr);
    else assert.match(stderr, /^ocifs: .*(path|name|link|entry)/m);
    for (const pid of await sandbox.daemons()) await processEnd(pid);
  }
  assert.deepEqual(await readdir(out), ["precious"]);
  assert.equal(await readFile(join(out, "precious"), "utf8"), "precious");
  const beside = (await readdir(sandbox.directory)).sort();
  assert.deepEqual(beside, ["cache", "layer.tar.gz", "mnt", "out", "run"]);
});

test("a self-signed registry is refused unless its certificate is trusted, and nothing turns that off", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const { keyPem, certificatePem } = await createCertificate(sandbox.directory, "server");
  const { fixture, server } = await startServer(t, { key: keyPem, cert: certificatePem });
  const mountpoint = await sandbox.mountpoint();
  for (const env of [{}, { NODE_TLS_REJECT_UNAUTHORIZED: "0" }]) {
    const refused = await sandbox.mount([server.reference, mountpoint, "-o", "timeout=5s"], { env });
    assert.equal(refused.status, 32, refused.stderr);
    assert.match(refused.stderr, /certificate is not trusted/);
    const listed = await sandbox.ocifs(["ls", server.reference, "/", "--cachedir", sandbox.cache], { env });
    assert.equal(listed.status, 1);
    assert.match(listed.stderr, /certificate is not trusted/);
  }
  assert.equal(server.server.requests.length, 0, "nothing was sent to a server that is not known");
  const env = { NODE_EXTRA_CA_CERTS: join(sandbox.directory, "server.crt") };
  await sandbox.mountedFirst([server.reference, mountpoint], { env });
  assert.deepEqual(await readFile(join(mountpoint, "big")), fixture.files.get("big"));
  await sandbox.unmount(mountpoint);
});
