import { readFile } from "node:fs/promises";
import { constants } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { Cleanup } from "../base/cleanup.js";
import { messageOf } from "../base/errors.js";
import { openUnnamed, writeFully } from "../cache/raw-file.js";
import { SpanStore } from "../native/layer.js";
import { closeFd } from "./device-mount.js";
import {
  PROBE_DEVICE_BYTES,
  PROBE_FILE,
  PROBE_FILE_BYTES,
  probeImage,
  probeOptions,
  probeTable,
} from "./erofs-probe.js";
import { type Events, makeEventMount } from "./event-mount.js";

/** The kernel lets go of a mount's files at once. */
const RELEASE_MS = 10_000;

/**
 * Why files in this directory cannot be given to the kernel's EROFS with holes in them; undefined when they can. Proves on a mount of its
 * own that the kernel asks before it reads a hole, that what it is refused is EIO for the reader, that it reads what was written after it
 * asked, and that its letting go of a mount is noticed.
 */
export async function whyEventsFail(directory: string, bootId: Uint8Array): Promise<string | undefined> {
  await using cleanup = new Cleanup();
  const image = await probeImage();
  cleanup.defer(() => image.close());
  const blobFd = await openUnnamed(directory);
  cleanup.defer(() => closeFd(blobFd));
  await writeFully(blobFd, Buffer.alloc(PROBE_DEVICE_BYTES, "events before reads "), 0);
  const table = probeTable();
  const files = { dataFd: await openUnnamed(directory), spansFd: await openUnnamed(directory) };
  const { outStarts, partition } = table;
  const store = new SpanStore({ ...files, outStarts, partition, bootId, memoryBytes: PROBE_DEVICE_BYTES });
  cleanup.defer(() => store.close());

  const fill = async (span: number) => {
    const decode = { gzip: false, fd: blobFd, ...table.compressedRange(span), ...table.decodeInput() };
    await store.fill({ span, ...decode, digest: undefined, discard: false, onlyMemory: false });
  };
  let asked = 0;
  let refuse = true;
  const onMiss = (_device: number, first: number, last: number) => {
    asked++;
    if (refuse) store.fail(first, last, constants.errno.EIO);
    else
      for (let span = first; span <= last; span++)
        void fill(span).catch(() => store.fail(span, span, constants.errno.EIO));
  };
  const tree = { image, devices: [store], directory, watch: () => store.watch() };
  const { events, mountFd } = await makeEventMount({ tree, onMiss, guardPid: undefined }, probeOptions);
  cleanup.defer(() => events.watcher.stop());
  let mounted: number | undefined = mountFd;
  cleanup.defer(async () => {
    if (mounted !== undefined) await closeFd(mounted);
  });

  const path = `/proc/self/fd/${mountFd}/${PROBE_FILE}`;
  const refused = await readFile(path).then(
    () => "read",
    (error: NodeJS.ErrnoException) => error.code ?? messageOf(error),
  );
  if (asked === 0) return "its EROFS reads holes of files without asking";
  if (refused !== "EIO") return `a read that was refused it is not EIO but ${refused}`;
  refuse = false;
  const wanted = Buffer.alloc(PROBE_DEVICE_BYTES, "events before reads ").subarray(512, 512 + PROBE_FILE_BYTES);
  if (!wanted.equals(await readFile(path))) return "its EROFS does not read what was written after it asked";
  mounted = undefined;
  await closeFd(mountFd);
  return (await releasedInTime(events)) ? undefined : "it does not tell when it lets go of a mount's files";
}

async function releasedInTime(events: Events): Promise<boolean> {
  const timer = new AbortController();
  const late = delay(RELEASE_MS, false, { signal: timer.signal }).catch(() => false);
  try {
    return await Promise.race([events.released.then(() => true), late]);
  } finally {
    timer.abort();
  }
}
