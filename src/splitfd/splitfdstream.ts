import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { StreamEvent } from "./events.js";
import type { Framing } from "./framing.js";

/**
 * splitfdstream v0: a signed 64-bit little-endian prefix, negative before that many literal bytes, else the number of a descriptor.
 * There is no magic, no end mark and no size of what a descriptor holds.
 */
const prefixBytes = 8;
/** Descriptors are counted in 32 bits where the format is implemented. */
const maximumIndex = 0xffff_ffff;

export const splitFdFraming: Framing = {
  name: "splitfdstream",
  headerBytes: () => prefixBytes,
  parse: (header, offset) => {
    const prefix = Buffer.from(header).readBigInt64LE(0);
    if (prefix >= 0n) {
      if (prefix > maximumIndex) {
        throw new OcifsError(
          "corrupt",
          `splitfdstream: descriptor ${prefix} at byte ${offset}, want at most ${maximumIndex}`,
        );
      }
      return { kind: "reference", to: { kind: "fd", index: Number(prefix) }, sizeBytes: undefined };
    }
    // Arbitrary precision: the lowest 64-bit number has no positive counterpart there.
    const sizeBytes = -prefix;
    if (sizeBytes > limits.splitChunkBytes) {
      throw new OcifsError(
        "limit",
        `splitfdstream: literal chunk of ${sizeBytes} bytes at byte ${offset}, the limit is ${limits.splitChunkBytes}`,
      );
    }
    return { kind: "begin", of: "inline", sizeBytes: Number(sizeBytes) };
  },
};

/** The bytes that stand for an event; none for an empty chunk, which the format cannot express. */
export function encodeSplitFd(event: StreamEvent): Uint8Array {
  if (event.kind === "bytes") return event.bytes;
  const prefix = Buffer.alloc(prefixBytes);
  if (event.kind === "begin") {
    if (event.sizeBytes === 0) return prefix.subarray(0, 0);
    checkChunk("splitfdstream", event.sizeBytes);
    prefix.writeBigInt64LE(-BigInt(event.sizeBytes));
    return prefix;
  }
  if (event.to.kind !== "fd") throw new OcifsError("internal", "splitfdstream: a file by name, want a descriptor");
  prefix.writeBigInt64LE(BigInt(event.to.index));
  return prefix;
}

/** Refuses to write what no reader takes. */
export function checkChunk(format: string, sizeBytes: number): void {
  if (sizeBytes <= limits.splitChunkBytes) return;
  throw new OcifsError(
    "limit",
    `${format}: ${sizeBytes} bytes inline, the format allows ${limits.splitChunkBytes}; give file contents beside the stream`,
  );
}
