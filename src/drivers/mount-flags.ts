import type { MountFlags } from "./driver.js";

/** Flags of mount(2), <linux/mount.h>. */
export const MS_RDONLY = 1;
const flagBits: Readonly<Record<keyof MountFlags, number>> = {
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  nosymfollow: 256,
  noatime: 1024,
  nodiratime: 2048,
  silent: 32768,
  relatime: 1 << 21,
  strictatime: 1 << 24,
};

/** The bits of mount(2) for flags that are set, and for read-only. */
export function readOnlyMountBits(flags: MountFlags): number {
  return setFlags(flags).reduce((bits, flag) => bits | flagBits[flag], MS_RDONLY);
}

export function setFlags(flags: MountFlags): (keyof MountFlags)[] {
  return (Object.keys(flagBits) as (keyof MountFlags)[]).filter((flag) => flags[flag]);
}

/** Attributes of fsmount(2), <linux/mount.h>. What is missing says nothing there: `relatime` is 0, `silent` an option. */
const attributeBits: Readonly<Partial<Record<keyof MountFlags, number>>> = {
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  noatime: 0x10,
  strictatime: 0x20,
  nodiratime: 0x80,
  nosymfollow: 0x20_0000,
};

/** The attributes of fsmount(2) for flags that are set, and for read-only. */
export function readOnlyMountAttributes(flags: MountFlags): number {
  return setFlags(flags).reduce((bits, flag) => bits | (attributeBits[flag] ?? 0), 1);
}
