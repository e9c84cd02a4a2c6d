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
