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
  attachMount(fd: number, target: string, namespace?: string): Promise<void>;
  mountFuse(target: string, source: string, flags: number, data: string, namespace?: string): Promise<MadeFuseMount>;
  unmount(target: string, lazy: boolean, device?: string, namespace?: string): Promise<void>;
  findDirectory(path: string, namespace?: string): Promise<string>;
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
export function attachMount(fd: number, target: string, namespace?: string): Promise<void> {
  return awaitNative(() => native.attachMount(fd, target, namespace));
}

/** A FUSE mount that was made just now and that nobody serves yet. */
export interface MadeFuseMount {
  /** Of /dev/fuse. */
  readonly fd: number;
  /** "major:minor". */
  readonly device: string;
}

/**
 * mount(2) of a new FUSE file system (needs CAP_SYS_ADMIN). Here and below `namespace` is the path of another mount namespace, such as
 * /proc/PID/ns/mnt, that paths are meant in.
 */
export function mountFuse(
  target: string,
  source: string,
  flags: number,
  data: string,
  namespace?: string,
): Promise<MadeFuseMount> {
  return awaitNative(() => native.mountFuse(target, source, flags, data, namespace));
}

/** umount2(2); `lazy` detaches a busy mount. With `only`, nothing is done unless the topmost mount there is of this device and in this namespace. */
export function unmount(
  target: string,
  lazy: boolean,
  only: { readonly device?: string; readonly namespace?: string } = {},
): Promise<void> {
  return awaitNative(() => native.unmount(target, lazy, only.device, only.namespace));
}

/** The real path of a directory whose file system answers; `io` with the errno in its cause. */
export function findDirectory(path: string, namespace?: string): Promise<string> {
  return awaitNative(() => native.findDirectory(path, namespace));
}

/** Rejects with `unsupported` and the reason when this process cannot have the file system type; loads its module when needed. */
export function probeFileSystem(type: string): Promise<void> {
  return awaitNative(() => native.probeFileSystem(type));
}
