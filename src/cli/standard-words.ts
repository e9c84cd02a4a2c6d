import type { MountFlags } from "../drivers/driver.js";

// The words of `-o` that are not ours but mount(8)'s, fstab(5)'s or systemd's. On a read-only tree most say nothing; the
// others become mount flags.

export const noMountFlags: MountFlags = {
  nosuid: false,
  nodev: false,
  noexec: false,
  nosymfollow: false,
  noatime: false,
  nodiratime: false,
  relatime: false,
  strictatime: false,
  silent: false,
};

/** What a word does to the flags; a later word undoes an earlier one, as mount(8) says. */
const flagWords = new Map<string, Partial<MountFlags>>([
  ["nosuid", { nosuid: true }],
  ["suid", { nosuid: false }],
  ["nodev", { nodev: true }],
  ["dev", { nodev: false }],
  ["noexec", { noexec: true }],
  ["exec", { noexec: false }],
  ["nosymfollow", { nosymfollow: true }],
  ["symfollow", { nosymfollow: false }],
  ["noatime", { noatime: true }],
  ["atime", { noatime: false }],
  ["nodiratime", { nodiratime: true }],
  ["diratime", { nodiratime: false }],
  ["relatime", { relatime: true }],
  ["norelatime", { relatime: false }],
  ["strictatime", { strictatime: true }],
  ["nostrictatime", { strictatime: false }],
  ["silent", { silent: true }],
  ["loud", { silent: false }],
  ["defaults", { nosuid: false, nodev: false, noexec: false }],
]);

/**
 * Words without an effect here. Writing: there is none. fstab's: mount(8) has acted on them, and spells out what they
 * imply (`user` arrives as `noexec,nosuid,nodev,user`), so implying it again would undo `user,exec`.
 */
const ignoredWords = new Set([
  ...["sync", "async", "dirsync", "mand", "nomand", "lazytime", "nolazytime", "iversion", "noiversion"],
  ...["auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "nousers", "owner", "noowner"],
  ...["group", "nogroup", "comment", "helper", "uhelper"],
]);

/** FUSE's own options as /proc/self/mountinfo shows them, from where mount(8) takes them for a remount. */
const shownByKernel = new Set([
  "user_id",
  "group_id",
  "default_permissions",
  "rootmode",
  "max_read",
  "blksize",
  "seclabel",
]);

export function isShownByKernel(key: string): boolean {
  return shownByKernel.has(key);
}

/** SELinux labels (mount(8), "context="); the kernel gets them as mount data, quotes included. */
const securityKeys = new Set(["context", "fscontext", "defcontext", "rootcontext"]);

export type StandardWord =
  | { readonly kind: "flags"; readonly flags: Partial<MountFlags> }
  | { readonly kind: "read-only"; readonly readOnly: boolean }
  | { readonly kind: "security" }
  | { readonly kind: "remount" }
  | { readonly kind: "ignored" };

/** Says what a word of `-o` (key and value already apart) means to mount(8); undefined when it is none of its words. */
export function standardWord(key: string, value: string | undefined): StandardWord | undefined {
  const flags = flagWords.get(key);
  if (flags !== undefined && value === undefined) return { kind: "flags", flags };
  if (key === "ro" && value === undefined) return { kind: "read-only", readOnly: true };
  if (key === "rw" && value === undefined) return { kind: "read-only", readOnly: false };
  if (key === "remount" && value === undefined) return { kind: "remount" };
  if (securityKeys.has(key) && value !== undefined && value !== "") return { kind: "security" };
  if (/^[xX]-./.test(key)) return { kind: "ignored" };
  return ignoredWords.has(key) ? { kind: "ignored" } : undefined;
}
