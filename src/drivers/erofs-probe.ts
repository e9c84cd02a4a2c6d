import { readFile } from "node:fs/promises";
import { constants } from "node:os";
import { Cleanup } from "../base/cleanup.js";
import { messageOf } from "../base/errors.js";
import { writeFully } from "../cache/raw-file.js";
import { FileTree, rootEntry } from "../erofs/file-tree.js";
import { noXattrs } from "../erofs/inode-table.js";
import { writeTarindex } from "../erofs/tarindex-writer.js";
import { EqualSpanTable } from "../layer/equal-span-table.js";
import { ErofsImage } from "../native/erofs.js";
import { SpanStore } from "../native/layer.js";
import { openMemoryFile } from "../native/sparse.js";
import { closeFd, type ErofsOptions, makeDeviceMount } from "./device-mount.js";

const PAGE_BYTES = 4096;
const DEVICE_BYTES = 3 * PAGE_BYTES;

/** The one file of the image that is probed with. */
export const PROBE_FILE = "probe";
/** Of the layer that it lies in, in spans of a page. */
export const PROBE_DEVICE_BYTES = DEVICE_BYTES;
export const PROBE_FILE_BYTES = PAGE_BYTES;
export const probeOptions: ErofsOptions = { source: "probe", options: [], attributes: 1 };

/**
 * Why the kernel's EROFS cannot be trusted with files whose reads may fail; undefined when it can. Kernels there are on which a
 * page of a file that lies half in a page that can be read and half in one that cannot has zeros for the latter, and no error. So a mount is made of
 * which one page can be read and the next cannot, and a file across the two is read.
 */
export async function whyErofsIsUnsafe(): Promise<string | undefined> {
  await using cleanup = new Cleanup();
  const image = await probeImage();
  cleanup.defer(() => image.close());
  const store = cleanup.add(await probeStore());
  const request = {
    mountpoint: "probe of the kernel's EROFS",
    tree: { image, devices: [store.store] },
    onMiss: (_device: number, first: number, last: number) => store.store.fail(first, last, constants.errno.EIO),
  };
  const { serving, mountFd } = await makeDeviceMount(request, probeOptions);
  cleanup.defer(() => serving.stop());
  cleanup.defer(() => closeFd(mountFd));
  try {
    await readFile(`/proc/self/fd/${mountFd}/${PROBE_FILE}`);
    return "its EROFS gives zeros for what it cannot read";
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === "EIO" ? undefined : `reading a file of its EROFS failed: ${messageOf(error)}`;
  }
}

/** One file, from the second 512-byte block of its device on, so that its pages lie across those of the device. */
export async function probeImage(): Promise<ErofsImage> {
  const metadata = { permissions: 0o444, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanoseconds: 0, xattrs: noXattrs };
  const tree = new FileTree({ ...metadata, permissions: 0o555 });
  const extents = [{ offset: 0, sizeBytes: PAGE_BYTES, deviceOffset: 512 }];
  const file = tree.inodes.add(metadata, { kind: "file", sizeBytes: PAGE_BYTES, device: 1, extents });
  tree.link(tree.place(rootEntry, Buffer.from(PROBE_FILE)), file);
  const devices = [{ tag: "", blocks: DEVICE_BYTES / 512 }];
  const bytes = Buffer.concat([...writeTarindex(tree, { devices, uuid: new Uint8Array(16) })]);
  const fd = openMemoryFile(bytes.length);
  try {
    await writeFully(fd, bytes, 0);
    return new ErofsImage(fd);
  } finally {
    await closeFd(fd);
  }
}

export function probeTable(): EqualSpanTable {
  const sizeBytes = DEVICE_BYTES;
  return new EqualSpanTable({ encoding: "tar", blobSizeBytes: sizeBytes, sizeBytes, spanBytes: PAGE_BYTES });
}

/** A layer of which the first page is there. */
async function probeStore(): Promise<AsyncDisposable & { readonly store: SpanStore }> {
  const table = probeTable();
  const { outStarts, partition } = table;
  const bootId = new Uint8Array(16);
  const store = new SpanStore({ dataFd: -1, spansFd: -1, outStarts, partition, bootId, memoryBytes: DEVICE_BYTES });
  const fd = openMemoryFile(DEVICE_BYTES);
  try {
    await writeFully(fd, Buffer.alloc(PAGE_BYTES, 1), 0);
    const range = table.compressedRange(0);
    const decode = { gzip: false, fd, ...range, ...table.decodeInput() };
    await store.fill({ span: 0, ...decode, digest: undefined, discard: false, onlyMemory: true });
  } finally {
    await closeFd(fd);
  }
  return { store, [Symbol.asyncDispose]: async () => store.close() };
}
