import assert from "node:assert/strict";
import { get } from "node:http";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { silentLog } from "../../src/base/log.js";
import { parseMetricsAddress } from "../../src/daemon/metrics/address.js";
import { formatMetrics } from "../../src/daemon/metrics/format.js";
import { MetricsServer } from "../../src/daemon/metrics/server.js";
import type { DaemonStatus, MountStatus } from "../../src/daemon/status.js";
import { rejectsWith, throwsWith } from "../support/errors.js";

const mount = {
  source: 'example/"app":1',
  mountpoint: "/mnt/a\nb",
  mountNamespace: null,
  manifestDigest: "sha256:00",
  driver: "fuse",
  state: "degraded",
  requests: 12,
  reads: 5,
  readBytes: 700,
  waitedBytes: 300,
  readMisses: 2,
  interrupted: 1,
  errors: 3,
  readErrors: { network: 2, corrupt: 1 },
  hitTime: { seconds: 0.5, counts: [1, 2, 0] },
  waitTime: { seconds: 0, counts: [] },
  bytesFetched: 1000,
  bytesTotal: 2000,
  cacheDirectory: "/cache",
  layers: [
    { fetchRequests: 1, fetchRetries: 0, cachedBytes: 10, spans: 4, cachedSpans: 1 },
    { fetchRequests: 2, fetchRetries: 1, cachedBytes: 20, spans: 6, cachedSpans: 2 },
  ],
} as unknown as MountStatus;

const daemon = (pid: number, mounts: readonly MountStatus[]): DaemonStatus => ({
  pid,
  version: "1.2.3",
  program: [],
  keeperPid: null,
  shared: true,
  mounts,
  restarts: 7,
  rssBytes: 4096,
});

test("metrics are Prometheus' text, each family once for all daemons", async () => {
  const asked: string[] = [];
  const cacheBytesOf = async (directory: string) => asked.push(directory) * 100;
  const inside = { ...mount, mountNamespace: "mnt:[1]" };
  const lines = (await formatMetrics([daemon(1, [mount, mount]), daemon(2, [inside])], cacheBytesOf)).split("\n");
  assert.deepEqual(asked, ["/cache"]);
  const of = (name: string) => lines.filter((line) => line.startsWith(`ocifs_${name}{`));
  const labels = 'image="example/\\"app\\":1",mountpoint="/mnt/a\\nb"';
  const other = `${labels},mount_namespace="mnt:[1]"`;
  assert.deepEqual(of("daemon_mounts"), ['ocifs_daemon_mounts{pid="1"} 2', 'ocifs_daemon_mounts{pid="2"} 1']);
  assert.deepEqual(of("reads_total"), [`ocifs_reads_total{${labels}} 5`, `ocifs_reads_total{${other}} 5`]);
  assert.deepEqual(of("read_bytes_total").slice(0, 2), [
    `ocifs_read_bytes_total{${labels},origin="cache"} 400`,
    `ocifs_read_bytes_total{${labels},origin="network"} 300`,
  ]);
  assert.deepEqual(of("read_errors_total").slice(0, 2), [
    `ocifs_read_errors_total{${labels},cause="network"} 2`,
    `ocifs_read_errors_total{${labels},cause="corrupt"} 1`,
  ]);
  assert.deepEqual(of("fetch_requests_total")[0], `ocifs_fetch_requests_total{${labels}} 3`);
  assert.deepEqual(of("mount_degraded")[0], `ocifs_mount_degraded{${labels}} 1`);
  assert.deepEqual(of("cache_bytes"), ['ocifs_cache_bytes{directory="/cache"} 100']);
  assert.deepEqual(of("read_seconds_bucket").slice(0, 4), [
    `ocifs_read_seconds_bucket{${labels},origin="cache",le="0.000004096"} 1`,
    `ocifs_read_seconds_bucket{${labels},origin="cache",le="0.000008192"} 3`,
    `ocifs_read_seconds_bucket{${labels},origin="cache",le="+Inf"} 3`,
    `ocifs_read_seconds_bucket{${labels},origin="network",le="+Inf"} 0`,
  ]);
  assert.deepEqual(of("read_seconds_sum")[0], `ocifs_read_seconds_sum{${labels},origin="cache"} 0.5`);
  assert.deepEqual(of("read_seconds_count")[0], `ocifs_read_seconds_count{${labels},origin="cache"} 3`);
  const types = lines.filter((line) => line.startsWith("# TYPE "));
  assert.equal(new Set(types).size, types.length);
  assert.ok(types.includes("# TYPE ocifs_read_seconds histogram"));
  for (const line of lines) assert.match(line, /^$|^# (HELP|TYPE) ocifs_[a-z_]+ |^ocifs_[a-z_]+(\{.*\})? [\d.e+-]+$/);
});

test("metrics are offered on loopback only, at /metrics only", async (t) => {
  assert.deepEqual(parseMetricsAddress("127.0.0.1:9464", "metrics"), { host: "127.0.0.1", port: 9464 });
  assert.deepEqual(parseMetricsAddress("[::1]:0", "metrics"), { host: "::1", port: 0 });
  for (const bad of ["0.0.0.0:1", "10.0.0.1:1", "example.org:1", "127.0.0.1", "127.0.0.1:70000", ":1", "::1:1"]) {
    throwsWith(() => parseMetricsAddress(bad, "metrics"), "usage");
  }
  const port: number[] = [];
  const log = { ...silentLog, info: (_: string, fields?: Record<string, unknown>) => port.push(Number(fields?.port)) };
  let fails = false;
  const metrics = async () => {
    if (fails) throw new Error("none");
    return "ocifs_x 1\n";
  };
  const server = await MetricsServer.listen({ host: "127.0.0.1", port: 0 }, metrics, log);
  t.after(() => server[Symbol.asyncDispose]());
  const ask = async (path: string, method = "GET"): Promise<[number | undefined, string]> => {
    return await new Promise((resolve, reject) => {
      const request = get({ host: "127.0.0.1", port: port[0], path, method, agent: false }, (response) => {
        void text(response).then((body) => resolve([response.statusCode, body]), reject);
      });
      request.on("error", reject);
    });
  };
  assert.deepEqual(await ask("/metrics"), [200, "ocifs_x 1\n"]);
  assert.equal((await ask("/"))[0], 404);
  assert.equal((await ask("/metrics", "POST"))[0], 404);
  fails = true;
  assert.equal((await ask("/metrics"))[0], 500);
  await rejectsWith(MetricsServer.listen({ host: "127.0.0.1", port: port[0] ?? 0 }, metrics, silentLog), "busy");
});
