import { closeSync } from "node:fs";
import { OcifsError } from "../base/errors.js";
import type { KeptMount } from "./driver.js";

/** Names under which a FUSE session's descriptors are kept: the keeper watches the first for the end of the mount. */
export function nameSessionFds(fds: readonly number[]): KeptMount["fds"] {
  return Object.fromEntries(fds.map((fd, at) => [at === 0 ? "fuse" : `clone${at}`, fd]));
}

/** The descriptors that were kept so, in their order. Throws `corrupt`, and closes them, when the session's own is not among them. */
export function sessionFdsOf(kept: KeptMount, mountpoint: string): number[] {
  const { fuse, ...clones } = kept.fds;
  if (fuse !== undefined) return [fuse, ...Object.values(clones)];
  for (const fd of Object.values(clones)) closeSync(fd);
  throw new OcifsError("corrupt", `${mountpoint}: no FUSE descriptor was kept of it`);
}
