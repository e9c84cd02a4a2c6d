import type { ErofsImage } from "../native/erofs.js";
import type { FuseStats } from "../native/fuse.js";
import type { SpanStore } from "../native/layer.js";

export type DriverName = "fuse" | "erofs" | "fanotify" | "fuse-native";

/** What a driver shows to the kernel: a tree, and the layers its files lie in. */
export interface MountableTree {
  readonly image: ErofsImage;
  /** In the order of the tarindex' device slots. */
  readonly devices: readonly SpanStore[];
  /**
   * A descriptor, the caller's, of a file that holds all bytes of the device in `slot` (0-based) and keeps them until the machine
   * is started again, whatever becomes of this process; undefined when there is none. Only what has got it needs no session.
   */
  readonly lend?: (slot: number) => Promise<number | undefined>;
  /**
   * A descriptor, the caller's, of the file that the device in `slot` is filled in, holes and all: see SpanStore.watch. `unsupported` with
   * the reason when there is no such file.
   */
  readonly watch?: (slot: number) => Promise<number>;
  /** Spans of the device in `slot` are known to be right one by one: nothing that is there will have to be refused later. */
  readonly checked?: (slot: number) => boolean;
  /** A directory of the file system that these files are on; undefined when they are on none. */
  readonly directory?: string | undefined;
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
  /** Who keeps descriptors while no daemon runs; undefined when nobody does. */
  readonly keeper?: DescriptorKeeper | undefined;
  /** Told what the user should know of and nobody asked for. */
  readonly onWarning?: (message: string) => void;
  /** A read waits for spans [first, last] of device slot `device` (1-based), since `parkedMs` of process.hrtime. */
  readonly onMiss: (device: number, first: number, last: number, fileEndSpan: number, parkedMs: number) => void;
  /** Where the mountpoint is, if not in this process' own mount namespace. */
  readonly namespace?: MountNamespace;
  /**
   * Makes the FUSE mount in this process' place, where it would not do so itself: in another namespace, or for want of privileges. Who makes
   * it also sees to it that it answers, and takes it away when this process does not serve it. Only the driver `fuse` can do with that.
   */
  readonly makeMount?: () => Promise<MadeMount>;
}

/** A FUSE mount that nobody serves yet. */
export interface MadeMount {
  /** Of /dev/fuse. */
  readonly fd: number;
  /** "major:minor", where it can be known before anybody serves it. */
  readonly device?: string;
  /** Of the mount namespace it is in, if that is not this process' own. */
  readonly namespace?: string;
}

/** Why a driver cannot do with `makeMount`, for its `unavailable`. */
export const madeElsewhere = "the mount is made by another process, which makes FUSE mounts only";

/** A mount namespace that is not this process' own. */
export interface MountNamespace {
  /** See base/mount-namespace.ts. */
  readonly id: string;
  /** Leads to it while the mount is made. */
  readonly path: string;
}

/** What every driver counts, in requests of the kernel to this process. */
export type DriverStats = FuseStats;

/** Of a driver that does not take the time of reads. */
export const untimed = {
  waitedBytes: 0,
  hitTime: { seconds: 0, counts: [] },
  waitTime: { seconds: 0, counts: [] },
} satisfies Partial<DriverStats>;

/** What another process needs to go on with a mount after this one has gone: descriptors that outlive it, and facts as JSON. */
export interface KeptMount {
  /** Names are the driver's own, such as "fuse". */
  readonly fds: Readonly<Record<string, number>>;
  readonly facts: Readonly<Record<string, string | number | boolean>>;
}

/** The process above this one, which starts the next daemon with the descriptors that it has. */
export interface DescriptorKeeper {
  readonly pid: number;
  /** It has them when this resolves, also if this process dies then. For a mount that must not be reached before. */
  keep(driver: DriverName, mount: KeptMount): Promise<void>;
}

/** One way to give a tree to the kernel. */
export interface Driver {
  readonly name: DriverName;
  /** Why it cannot make this mount on this system, as the end of a sentence; undefined when it can. Changes nothing. */
  unavailable(request: MountRequest): Promise<string | undefined>;
  /** Makes the mount; resolves when it answers. What fails leaves nothing mounted. */
  mount(request: MountRequest): Promise<Mounted>;
  /** Goes on with a mount that a process before this one made and kept; takes the descriptors over. */
  adopt(request: MountRequest, kept: KeptMount): Promise<Mounted>;
  /**
   * For a kept mount that nobody can go on with, where the closing of its descriptors would not make its reads fail. Takes them over;
   * resolves when they were closed, which is when the kernel has no use for the mount any more.
   */
  giveUp?(mountpoint: string, kept: KeptMount): Promise<void>;
}

/** A mount that answers. */
export interface Mounted extends AsyncDisposable {
  readonly driver: DriverName;
  readonly mountpoint: string;
  /** The mount namespace it is in, if that is not this process' own; see base/mount-namespace.ts. */
  readonly namespace: string | undefined;
  /** Resolves when the mount is gone, whoever unmounted it; rejects when the session broke. */
  readonly ended: Promise<void>;
  stats(): DriverStats;
  /**
   * For `adopt`. The descriptors stay this mount's own: who keeps them duplicates them. Throws `unsupported` when the mount cannot outlive
   * this process.
   */
  keep(): KeptMount;
  /**
   * Unmounts: busy mounts are detached, so that the path is free and open files go on until they are closed or this
   * process ends. Idempotent.
   */
  unmount(): Promise<void>;
  /** Stops serving and leaves the mount as it is, for the process that adopts it; unmounts what cannot be kept. Idempotent. */
  leave(): Promise<void>;
}
