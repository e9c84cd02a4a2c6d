import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { get } from "node:http";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { steps } from "../../src/base/steps.js";
import type { ReadTrace } from "../../src/daemon/slow-reads.js";
import { MountSandbox } from "../support/mounted-image.js";
import { startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, pushSampleLayer, sampleBig } from "../support/sample-layer.js";
import { SharedDaemon } from "../support/shared-daemon.js";

async function scrape(port: number): Promise<string> {
  return await new Promise((resolve, reject) => {
    get({ host: "127.0.0.1", port, path: "/metrics", agent: false }, (response) => {
      text(response).then(resolve, reject);
    }).on("error", reject);
  });
}

/** The one value of a metric whose labels have this text in them. */
function sampleOf(metrics: string, name: string, label = ""): number {
  const found = metrics.split("\n").filter((line) => line.startsWith(`${name}{`) && line.includes(label));
  assert.equal(found.length, 1, `${name}: ${found.join("\n")}`);
  return Number(found[0]?.split(" ").at(-1));
}

test("metrics and the trace of cold reads, of the shared daemon and of one of a mount's own", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const auth = { user: "somebody", password: "right", scheme: "bearer" } as const;
  const registry = await startRegistry({ auth });
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "some/image", auth);
  const daemon = await SharedDaemon.start(t, sandbox, ["--metrics", "127.0.0.1:0"]);
  const port = Number(/"metrics are offered"/.test(daemon.log) && /"port":(\d+)/.exec(daemon.log)?.[1]);
  const [mountpoint, second] = [await sandbox.mountpoint(), await sandbox.mountpoint("second")];
  const login = ["-o", "oci.insecure,oci.username=somebody,oci.password=right"];
  const image = `${registry.host}/some/image:1`;
  await sandbox.mounted([image, mountpoint, ...layer.words, ...login, "-o", "daemon=shared,profile=off"]);
  const before = await scrape(port);
  assert.equal(sampleOf(before, "ocifs_read_seconds_count", 'origin="network"'), 0);
  assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
  const after = await scrape(port);
  assert.ok(sampleOf(after, "ocifs_read_seconds_count", 'origin="network"') > 0);
  assert.ok(sampleOf(after, "ocifs_fetched_bytes_total") > 2_900_000);
  const [fromCache, fromNetwork] = ["cache", "network"].map((origin) =>
    sampleOf(after, "ocifs_read_bytes_total", `origin="${origin}"`),
  );
  assert.ok((fromNetwork ?? 0) > 0 && (fromCache ?? 0) + (fromNetwork ?? 0) >= sampleBig.length);
  assert.ok(sampleOf(after, "ocifs_cache_bytes") > 0);

  const { stdout, stderr, status } = await sandbox.ocifs(["status", "--slow", "--json"]);
  assert.equal(status, 0, stderr);
  const { slowReads } = JSON.parse(stdout) as { slowReads: ReadTrace[] };
  assert.ok(slowReads.length > 0);
  for (const read of slowReads) {
    assert.deepEqual([read.mountpoint, read.layer, read.error], [mountpoint, layer.digest, null]);
    const sum = Object.values(read.steps).reduce((all, ms) => all + ms, 0);
    assert.ok(Math.abs(sum - read.totalMs) < 0.001, `${sum} of ${read.totalMs} ms`);
    for (const step of Object.keys(read.steps)) assert.ok((steps as readonly string[]).includes(step), step);
  }
  // The first one waited for all there is to wait for.
  const waited = new Set(slowReads.flatMap((read) => Object.keys(read.steps)));
  for (const step of ["queue", "token", "connection", "first byte", "body", "decode", "digest", "reply"]) {
    assert.ok(waited.has(step), `${step} of ${[...waited].join(", ")}`);
  }
  const table = await sandbox.ocifs(["status", "--slow"]);
  assert.match(table.stdout, /^MOUNTPOINT +LAYER +SPANS +AT +MS .*FIRST BYTE.*ERROR\n/);

  await sandbox.mounted([image, second, ...layer.words, ...login, "-o", "metrics=127.0.0.1:0"]);
  const all = await sandbox.ocifs(["metrics"]);
  assert.equal(all.status, 0, all.stderr);
  for (const mounted of [mountpoint, second]) sampleOf(all.stdout, "ocifs_reads_total", `mountpoint="${mounted}"`);
  const shared = await sandbox.mount([
    image,
    second,
    ...layer.words,
    ...login,
    "-o",
    "metrics=127.0.0.1:0,daemon=shared",
  ]);
  assert.equal(shared.status, 32);
});

test("a read that fails is counted by its cause, and traced", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const registry = await startRegistry();
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "some/image");
  const mountpoint = await sandbox.mountpoint();
  const image = `${registry.host}/some/image:1`;
  await sandbox.mounted([image, mountpoint, ...layer.words, "-o", "oci.insecure,timeout=1s"]);
  await registry.stop();
  await assert.rejects(readFile(join(mountpoint, "big")), { code: "EIO" });
  const { stdout } = await sandbox.ocifs(["metrics"]);
  assert.ok(sampleOf(stdout, "ocifs_read_errors_total", 'cause="network"') > 0);
  assert.equal(sampleOf(stdout, "ocifs_mount_degraded"), 1);
  const { slowReads } = JSON.parse((await sandbox.ocifs(["status", "--slow", "--json"])).stdout);
  assert.equal(slowReads[0].error, "network");
});
