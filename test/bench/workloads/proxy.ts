import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";
import { fileURLToPath } from "node:url";
import { digestOfBytes } from "../../../src/oci/digest.js";
import { mediaTypes } from "../../../src/oci/media-types.js";
import { startFaultyServer } from "../../support/faulty-server.js";
import { startProcess } from "../../support/process.js";
import type { Bench } from "../bench.js";
import { atMost, type Figure, Pairs, summarize } from "../figures.js";
import { ocifsProgram } from "../mounts.js";
import { startShapedLink } from "../shaped-link.js";

const clients = 32;
const blobBytes = 60_000_000;
const megabits = 50;
const firstByteMaxMs = 200;
/** Of the child that is all clients: one process, so that they take little from the machine that the proxy runs on. */
const crowdProgram = fileURLToPath(new URL("../proxy-crowd.js", import.meta.url));

/** What proxy-crowd.ts prints. Times are of one clock, in ms. */
export interface CrowdResult {
  readonly startedMs: number;
  readonly firstByteMs: readonly number[];
  readonly endMs: readonly number[];
  readonly digests: readonly string[];
}

/**
 * Many clients that pull one blob through the proxy while it comes over a slow link, and one more that takes nothing, beside one direct
 * download of the blob over the same link.
 */
export async function proxyCrowd(bench: Bench): Promise<Figure[]> {
  const bytes = randomBytes(blobBytes);
  const digest = digestOfBytes(bytes);
  const path = `/v2/bench/blob/blobs/${digest}`;
  let served = 0;
  let firstServedMs = Number.NaN;
  const origin = await startFaultyServer((received, response) => {
    response.writeHead(200, { "content-type": mediaTypes.ociLayerTar, "content-length": bytes.length });
    if (received.method === "HEAD") return void response.end();
    served += bytes.length;
    firstServedMs = now();
    response.end(bytes);
  });
  const times = new Pairs();
  const firstBytes: number[] = [];
  const upstream: number[] = [];
  try {
    await using link = await startShapedLink(origin.host, megabits);
    for (let i = 0; i < bench.repeats; i++) {
      bench.say(`proxy, ${clients} clients, ${i + 1} of ${bench.repeats}`);
      const direct = await crowd(bench, `http://${link.host}${path}`, 1);
      served = 0;
      const cache = await bench.freshDirectory("cache");
      const args = ["proxy", "--listen", "127.0.0.1:0", "--upstream", link.host, "--insecure", "--auth", "none"];
      const words = [ocifsProgram, ...args, "--cachedir", cache];
      const proxy = await startProcess(process.execPath, words, /listens on (http\S+)$/);
      try {
        const url = `${proxy.match[1]}${path}`;
        const all = await crowd(bench, url, clients, 1);
        if (all.digests.some((got) => got !== digest)) throw new Error("proxy: a client got other bytes");
        times.add(Math.max(...all.endMs) - all.startedMs, Math.max(...direct.endMs) - direct.startedMs);
        // Half a round trip of it is the way from the upstream's server to the proxy.
        firstBytes.push(Math.max(...all.firstByteMs) - firstServedMs);
        upstream.push(served);
      } finally {
        await proxy.stop();
      }
      await bench.discard(cache);
    }
  } finally {
    await origin.stop();
  }
  const about = {
    workload: "proxy",
    command: "ocifs proxy, and clients that GET the blob",
    note: `A blob of 60 MB over 40 ms and ${megabits} Mbit/s; another client takes nothing`,
  } as const;
  const [last, total] = [summarize(firstBytes), summarize(upstream)];
  return [
    times.toFigure(
      "time",
      { ...about, name: `the last of ${clients} clients is done`, unit: "ms", referenceName: "one direct download" },
      atMost(1.1),
    ),
    {
      ...about,
      name: "first byte from upstream to the last client's first byte",
      unit: "ms",
      ocifs: last,
      want: { text: `≤ ${firstByteMaxMs} ms`, met: last.max <= firstByteMaxMs },
    },
    {
      ...about,
      name: "bytes asked of upstream",
      unit: "bytes",
      ocifs: total,
      want: { text: `${blobBytes}`, met: total.values.every((value) => value === blobBytes) },
    },
  ];
}

async function crowd(bench: Bench, url: string, count: number, stalled = 0): Promise<CrowdResult> {
  const { stdout } = await bench.run(process.execPath, [crowdProgram, url, String(count), String(stalled)]);
  return JSON.parse(stdout) as CrowdResult;
}

/** A request whose answer nobody reads. */
async function begun(url: string): Promise<IncomingMessage> {
  const [response] = (await once(get(url, { agent: false }), "response")) as [IncomingMessage];
  response.on("error", () => undefined);
  return response;
}

/** Of the clock that all processes share. */
export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** What the crowd's program does: `count` clients at once, after `stalled` that never read. */
export async function runCrowd(url: string, count: number, stalled: number): Promise<CrowdResult> {
  const startedMs = now();
  const asleep = Array.from({ length: stalled }, () => begun(url));
  const results = await Promise.all(
    Array.from({ length: count }, async () => {
      const response = await begun(url);
      const hash = createHash("sha256");
      let firstByteMs = Number.NaN;
      for await (const chunk of response) {
        if (Number.isNaN(firstByteMs)) firstByteMs = now();
        hash.update(chunk as Buffer);
      }
      return { firstByteMs, endMs: now(), digest: `sha256:${hash.digest("hex")}` };
    }),
  );
  for (const response of await Promise.all(asleep)) response.destroy();
  return {
    startedMs,
    firstByteMs: results.map((one) => one.firstByteMs),
    endMs: results.map((one) => one.endMs),
    digests: results.map((one) => one.digest),
  };
}
