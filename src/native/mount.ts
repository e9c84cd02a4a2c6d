import { addon, awaitNative, callNative } from "./addon.js";

export interface KernelErofsMount {
  /** Shown in /proc/mounts where the kernel lets it: see native/mount/kernel_mount.h. */
  readonly source: string;
  /** The image and its devices: regular files. They stay the caller's, and may be closed when the mount is made. */
  readonly imageFd: number;
  readonly deviceFds: readonly number[];
  /** Options of the file system; a flag has an empty value. */
  readonly options: readonly (readonly [key: string, value: string])[];
  /** MOUNT_ATTR_* of <linux/mount.h>. */
  readonly attributes: number;
}

const native = addon as unknown as {
  mountFuseDetached(): { fuseFd: number; mountFd: number };
  mountErofs(mount: KernelErofsMount): Promise<number>;
  attachMount(fd: number, target: string): Promise<void>;
  probeFileSystem(type: string): Promise<void>;
};

/**
 * A FUSE mount that no path leads to, as root: its session's descriptor, and one of its root directory. It is gone when neither the
 * latter nor any file opened through it is left.
 */
export function mountFuseDetached(): { readonly fuseFd: number; readonly mountFd: number } {
  return callNative(() => native.mountFuseDetached());
}

/** The kernel's EROFS on files, at no path yet: a descriptor of its root. `unsupported` for what this system does not offer, `corrupt` for an image EROFS refuses. */
export function mountErofs(mount: KernelErofsMount): Promise<number> {
  return awaitNative(() => native.mountErofs(mount));
}

/** Attaches a mount that has no path to one, where it stays without the descriptor. */
export function attachMount(fd: number, target: string): Promise<void> {
  return awaitNative(() => native.attachMount(fd, target));
}

/** Rejects with `unsupported` and the reason when this process cannot have the file system type; loads its module when needed. */
export function probeFileSystem(type: string): Promise<void> {
  return awaitNative(() => native.probeFileSystem(type));
}
