import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fetchSizes } from "../../../src/layer/fetch-sizes.js";
import type { Bench, ReadResult } from "../bench.js";
import { type Figure, Pairs, summarize } from "../figures.js";
import { compressedRangeBytes } from "../layer-map.js";
import { wellKnown } from "../layers.js";
import type { OcifsMount } from "../mounts.js";
import { requireSame } from "../truth.js";

const requestsMax = 8;
const randomReads = 100;
/** The registry writes a line of its log after the last byte of an answer. */
const LOG_DEADLINE_MS = 10_000;

interface Fetched {
  readonly requests: number;
  readonly bytes: number;
}

/** One 5 MB file, cold: what is downloaded for it. */
export async function coldFile(bench: Bench): Promise<Figure[]> {
  const file = wellKnown.fiveMb;
  const { sizeBytes } = await bench.layer("files");
  const rangeBytes = await compressedRangeBytes(await bench.index("files"), sizeBytes, file.path);
  const truth = await bench.read("seq", await bench.extracted("files", file.path), 0, file.sizeBytes, "hash");
  const bytes = new Pairs();
  const requests: number[] = [];
  for (let i = 0; i < bench.repeats; i++) {
    const fetched = await fetchedBy(
      bench,
      truth,
      (path) => bench.read("seq", path, 0, file.sizeBytes, "hash"),
      file.path,
    );
    bytes.add(fetched.bytes, rangeBytes);
    requests.push(fetched.requests);
  }
  const workload = "cold read";
  const command = `mount.ocifs IMAGE MNT …; tool seq MNT/${file.path} 0 ${file.sizeBytes} hash; the registry's access log`;
  const unit = fetchSizes.firstGrowthBytes;
  return [
    bytes.toFigure(
      "size",
      { workload, name: "a 5 MB file, downloaded", unit: "bytes", command, referenceName: "its spans, compressed" },
      { text: `≤ its spans + ${unit} bytes`, isMet: (ocifs) => ocifs.max <= rangeBytes + unit },
    ),
    requestFigure(workload, "a 5 MB file, requests", requests, command),
  ];
}

/** Random reads in a 6 MB file, cold: how many requests they cause. */
export async function coldRandom(bench: Bench): Promise<Figure[]> {
  const file = wellKnown.sixMb;
  const { sizeBytes } = await bench.layer("files");
  const rangeBytes = await compressedRangeBytes(await bench.index("files"), sizeBytes, file.path);
  const original = await bench.extracted("files", file.path);
  const bytes = new Pairs();
  const requests: number[] = [];
  for (let i = 0; i < bench.repeats; i++) {
    const words = [randomReads, 1, i + 1, "buffered", "hash"];
    const truth = await bench.read("random", original, ...words);
    const fetched = await fetchedBy(bench, truth, (path) => bench.read("random", path, ...words), file.path);
    bytes.add(fetched.bytes, rangeBytes);
    requests.push(fetched.requests);
  }
  const workload = "cold random reads";
  const name = `${randomReads} × 4 KiB in a 6 MB file`;
  const command = `mount.ocifs IMAGE MNT …; tool random MNT/${file.path} ${randomReads} 1 SEED buffered hash; the registry's access log`;
  return [
    requestFigure(workload, `${name}, requests`, requests, command),
    bytes.toFigure("size", {
      workload,
      name: `${name}, downloaded`,
      unit: "bytes",
      command,
      referenceName: "the file's spans, compressed",
    }),
  ];
}

function requestFigure(workload: string, name: string, requests: readonly number[], command: string): Figure {
  const ocifs = summarize(requests);
  return {
    workload,
    name,
    unit: "requests",
    ocifs,
    reference: { name: "allowed", summary: summarize(requests.map(() => requestsMax)) },
    ratio: summarize(requests.map((count) => requestsMax / count)),
    want: { text: `≤ ${requestsMax}`, met: ocifs.max <= requestsMax, ratio: 1 },
    command,
  };
}

/** Mounts with an empty cache, reads, checks the bytes, and tells what the registry served for the blob since before the mount. */
async function fetchedBy(
  bench: Bench,
  truth: ReadResult,
  read: (path: string) => Promise<ReadResult>,
  path: string,
): Promise<Fetched> {
  const request = await bench.mountRequest("files");
  const before = await bench.servedBlob("files");
  await using mount = await bench.mountAs(request);
  const got = await read(join(mount.directory, path));
  requireSame(got, truth, `${path}, read through the mount`);
  return await settledCount(bench, mount, before);
}

/** The server's own count, once it has logged as many requests as the daemon says it made. */
async function settledCount(bench: Bench, mount: OcifsMount, before: Fetched): Promise<Fetched> {
  const deadline = Date.now() + LOG_DEADLINE_MS;
  for (;;) {
    const now = await bench.servedBlob("files");
    const served = { requests: now.requests - before.requests, bytes: now.bytes - before.bytes };
    const { fetchRequests = 0, fetchedBytes = 0 } = (await mount.status()).layers[0] ?? {};
    if (served.requests === fetchRequests && served.bytes === fetchedBytes) return served;
    if (Date.now() > deadline) {
      throw new Error(
        `the registry counts ${served.requests} requests and ${served.bytes} bytes, ocifs status ${fetchRequests} and ${fetchedBytes}`,
      );
    }
    await delay(20, undefined, { signal: bench.signal });
  }
}
