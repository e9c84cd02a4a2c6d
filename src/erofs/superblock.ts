import { OcifsError } from "../base/errors.js";
import type { PlannedTarindex } from "../native/tarindex.js";
import { crc32cOfSuperblock } from "./crc32c.js";
import {
  blockBits,
  blockBytes,
  compat,
  deviceSlotBytes,
  deviceTableSlot,
  deviceTagBytes,
  incompat,
  superblockBytes,
  superblockMagic,
  superblockOffset,
} from "./format.js";

/** One layer's uncompressed tar. */
export interface DeviceSlot {
  /** ASCII, at most 64 characters: the layer's digest in hex, or empty. */
  readonly tag: string;
  /** Its size in 512-byte blocks. */
  readonly blocks: number;
}

const maximum32 = 0xffff_ffff;

/** First block of each device in the flat address space: the index, then the devices one after another. */
function flatAddresses(plan: PlannedTarindex, devices: readonly DeviceSlot[]): number[] {
  let next = plan.sizeBytes / blockBytes;
  return devices.map((device) => {
    const address = next;
    next += device.blocks;
    return address;
  });
}

function needs48Bits(plan: PlannedTarindex, devices: readonly DeviceSlot[]): boolean {
  const last = (flatAddresses(plan, devices).at(-1) ?? 0) + (devices.at(-1)?.blocks ?? 0);
  return last >= maximum32 || devices.some((device) => device.blocks >= maximum32);
}

/** Writes the superblock into the start of a tarindex whose device table is there: its checksum covers the rest of its block. */
export function writeSuperblock(
  start: Uint8Array,
  plan: PlannedTarindex,
  {
    rootNid,
    devices,
    uuid,
  }: { readonly rootNid: number; readonly devices: readonly DeviceSlot[]; readonly uuid: Uint8Array },
): void {
  if (devices.length === 0 || devices.length > 0xffff || uuid.length !== 16) {
    throw new OcifsError("internal", `tarindex: ${devices.length} devices and a uuid of ${uuid.length} bytes`);
  }
  if (rootNid > 0xffff) throw new OcifsError("internal", `tarindex: root nid ${rootNid} does not fit 16 bits`);
  const at = superblockOffset;
  const view = viewOf(start);
  view.setUint32(at, superblockMagic, true);
  view.setUint32(at + 8, compat.superblockChecksum | compat.mtime | (plan.hasXattrs ? compat.xattrFilter : 0), true);
  view.setUint8(at + 12, blockBits);
  view.setUint16(at + 14, rootNid, true);
  view.setBigUint64(at + 16, BigInt(plan.inodeCount), true);
  view.setBigUint64(at + 24, BigInt(plan.epochSeconds), true);
  view.setUint32(at + 32, plan.epochNanoseconds, true);
  view.setUint32(at + 36, plan.sizeBytes / blockBytes, true);
  for (let i = 0; i < uuid.length; i++) view.setUint8(at + 48 + i, uuid[i] ?? 0);
  view.setUint32(at + 80, incompat.deviceTable | (needs48Bits(plan, devices) ? incompat.address48 : 0), true);
  view.setUint16(at + 86, devices.length, true);
  view.setUint16(at + 88, deviceTableSlot, true);
  view.setUint32(at + 4, crc32cOfSuperblock(start.subarray(at, at + blockBytes)), true);
}

/** Writes one 128-byte slot a device. */
export function writeDeviceTable(start: Uint8Array, plan: PlannedTarindex, devices: readonly DeviceSlot[]): void {
  const view = viewOf(start);
  const addresses = flatAddresses(plan, devices);
  devices.forEach((device, i) => {
    const tag = Buffer.from(device.tag, "latin1");
    if (tag.length > deviceTagBytes) throw new OcifsError("internal", `tarindex: device tag of ${tag.length} bytes`);
    const at = superblockOffset + superblockBytes + i * deviceSlotBytes;
    tag.forEach((byte, t) => {
      view.setUint8(at + t, byte);
    });
    const address = addresses[i] ?? 0;
    view.setUint32(at + 64, device.blocks % 2 ** 32, true);
    view.setUint32(at + 68, address % 2 ** 32, true);
    view.setUint16(at + 72, Math.floor(device.blocks / 2 ** 32), true);
    view.setUint16(at + 74, Math.floor(address / 2 ** 32), true);
  });
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
