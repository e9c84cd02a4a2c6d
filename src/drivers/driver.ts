import type { ErofsImage } from "../native/erofs.js";
import type { FuseStats } from "../native/fuse.js";
import type { SpanStore } from "../native/layer.js";

/** What a driver shows to the kernel: a tree, and the layers its files lie in. */
export interface MountableTree {
  readonly image: ErofsImage;
  /** In the order of the tarindex' device slots. */
  readonly devices: readonly SpanStore[];
}

/** Flags of mount(2) that a user may set; the mount is always read-only. */
export interface MountFlags {
  readonly nosuid: boolean;
  readonly nodev: boolean;
  readonly noexec: boolean;
  readonly nosymfollow: boolean;
  readonly noatime: boolean;
  readonly nodiratime: boolean;
  readonly relatime: boolean;
  readonly strictatime: boolean;
  readonly silent: boolean;
}

export interface MountRequest {
  /** Absolute path of an existing directory. */
  readonly mountpoint: string;
  /** Shown as the source in /proc/mounts and findmnt; holds no secret. */
  readonly sourceName: string;
  readonly tree: MountableTree;
  readonly allowOther: boolean;
  readonly flags: MountFlags;
  /** `context=…` and its kin, for the data argument of mount(2), verbatim. */
  readonly securityOptions: readonly string[];
  /** A read waits for spans [first, last] of device slot `device` (1-based). */
  readonly onMiss: (device: number, first: number, last: number, fileEndSpan: number) => void;
}

/** What every driver counts: so far there is one, and these are its session's counters. */
export type DriverStats = FuseStats;

/** A mount that answers. */
export interface Mounted extends AsyncDisposable {
  readonly driver: string;
  readonly mountpoint: string;
  /** Resolves when the mount is gone, whoever unmounted it; rejects when the session broke. */
  readonly ended: Promise<void>;
  stats(): DriverStats;
  /**
   * Unmounts: busy mounts are detached, so that the path is free and open files go on until they are closed or this
   * process ends. Idempotent.
   */
  unmount(): Promise<void>;
}
