import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { quoteBytes } from "../tar/quote.js";
import type { StreamEvent } from "./events.js";
import type { Framing } from "./framing.js";
import { checkChunk } from "./splitfdstream.js";

/** splitdirfdstream-v0: a type byte, then little-endian fields. The end is where a type byte would be. */
const chunkTypes = { metadata: 0, inlineData: 1, fileBacked: 2 } as const;
/** Type and u32 length. */
const literalHeaderBytes = 5;
/** Type, u64 content length, u32 directory, u32 name length. */
const fileHeaderBytes = 17;
const slash = 0x2f;

export const splitDirFdFraming: Framing = {
  name: "splitdirfdstream",
  headerBytes: (header) => {
    const [type] = header;
    if (type === undefined) return 1;
    if (type !== chunkTypes.fileBacked) return literalHeaderBytes;
    if (header.length < fileHeaderBytes) return fileHeaderBytes;
    // One that is too long is refused before its name is read.
    const nameBytes = viewOf(header).getUint32(13, true);
    return nameBytes > limits.splitNameBytes ? fileHeaderBytes : fileHeaderBytes + nameBytes;
  },
  parse: (header, offset) => {
    const [type = -1] = header;
    const at = `at byte ${offset}`;
    const view = viewOf(header);
    if (type === chunkTypes.fileBacked) return parseFile(header, view, at);
    if (type !== chunkTypes.metadata && type !== chunkTypes.inlineData) {
      throw new OcifsError("corrupt", `splitdirfdstream: chunk type ${type} ${at}, want 0, 1 or 2`);
    }
    const sizeBytes = view.getUint32(1, true);
    if (sizeBytes > limits.splitChunkBytes) {
      throw new OcifsError(
        "limit",
        `splitdirfdstream: chunk of ${sizeBytes} bytes ${at}, the limit is ${limits.splitChunkBytes}`,
      );
    }
    return { kind: "begin", of: type === chunkTypes.metadata ? "metadata" : "content", sizeBytes };
  },
};

function parseFile(header: Uint8Array, view: DataView, at: string): StreamEvent & { readonly kind: "reference" } {
  const size = view.getBigUint64(1, true);
  if (size > limits.layerTarBytes) {
    throw new OcifsError(
      "limit",
      `splitdirfdstream: file of ${size} bytes ${at}, the limit is ${limits.layerTarBytes}`,
    );
  }
  const nameBytes = view.getUint32(13, true);
  if (nameBytes > limits.splitNameBytes) {
    throw new OcifsError(
      "limit",
      `splitdirfdstream: name of ${nameBytes} bytes ${at}, the limit is ${limits.splitNameBytes}`,
    );
  }
  const name = header.subarray(fileHeaderBytes);
  checkContentName(name, `splitdirfdstream: file ${at}`);
  const to = { kind: "name", directory: view.getUint32(9, true), name } as const;
  return { kind: "reference", to, sizeBytes: Number(size) };
}

/** A name that leads out of its directory, or nowhere. `.` and doubled slashes are allowed. Throws `corrupt`. */
function checkContentName(name: Uint8Array, what: string): void {
  const refuse = (why: string) => new OcifsError("corrupt", `${what}: name ${quoteBytes(name)} ${why}`);
  if (name.length === 0) throw refuse("is empty");
  if (name.includes(0)) throw refuse("holds a NUL byte");
  if (name[0] === slash) throw refuse("is absolute");
  if (Buffer.from(name).toString("latin1").split("/").includes("..")) throw refuse('contains ".."');
}

/** The bytes that stand for an event; none for empty metadata, which is never written. */
export function encodeSplitDirFd(event: StreamEvent): Uint8Array {
  if (event.kind === "bytes") return event.bytes;
  if (event.kind === "begin") {
    if (event.of !== "content" && event.sizeBytes === 0) return new Uint8Array(0);
    checkChunk("splitdirfdstream", event.sizeBytes);
    const header = Buffer.alloc(literalHeaderBytes);
    header[0] = event.of === "content" ? chunkTypes.inlineData : chunkTypes.metadata;
    header.writeUInt32LE(event.sizeBytes, 1);
    return header;
  }
  const { to, sizeBytes } = event;
  if (to.kind !== "name" || sizeBytes === undefined) {
    throw new OcifsError("internal", "splitdirfdstream: a file without directory, name and size");
  }
  checkContentName(to.name, "splitdirfdstream: file");
  if (to.name.length > limits.splitNameBytes)
    throw new OcifsError("limit", `splitdirfdstream: name of ${to.name.length} bytes`);
  const header = Buffer.alloc(fileHeaderBytes);
  header[0] = chunkTypes.fileBacked;
  header.writeBigUInt64LE(BigInt(sizeBytes), 1);
  header.writeUInt32LE(to.directory, 9);
  header.writeUInt32LE(to.name.length, 13);
  return Buffer.concat([header, to.name]);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
