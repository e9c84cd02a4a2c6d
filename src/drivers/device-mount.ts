import { close, fstat, open } from "node:fs";
import { promisify } from "node:util";
import { Cleanup } from "../base/cleanup.js";
import { isOcifsError, messageOf } from "../base/errors.js";
import { type KernelErofsMount, mountErofs, mountFuseDetached, probeFileSystem } from "../native/mount.js";
import type { MountRequest } from "./driver.js";
import { isRoot } from "./fuse-mount.js";
import { readOnlyMountAttributes } from "./mount-flags.js";
import { deviceName } from "./mountpoint.js";
import { raiseReadahead, Serving, type ServingRequest } from "./serving.js";

export type ErofsOptions = Pick<KernelErofsMount, "source" | "options" | "attributes">;

/** An EROFS mount that has no path yet. */
export interface ErofsMountPoint {
  /** Of the EROFS mount's root directory; the caller's. */
  readonly mountFd: number;
  /** "major:minor" of the EROFS mount. */
  readonly device: string;
}

/** The same, and the session of the device files below it. */
export interface DeviceMount extends ErofsMountPoint {
  readonly serving: Serving;
}

const DIRECT_IO = ["directio", ""] as const;

export const closeFd = promisify(close);

/** Why this process cannot mount EROFS, or one of the file systems that it is to lie on; undefined when it can. */
export async function whyNotMountable(...types: readonly string[]): Promise<string | undefined> {
  if (!isRoot()) return "mounting EROFS needs root";
  for (const type of types) {
    try {
      await probeFileSystem(type);
    } catch (error) {
      return messageOf(error);
    }
  }
  return undefined;
}

/** What the user asked for, in the terms of fsconfig(2) and fsmount(2). */
export function erofsOptionsOf({ sourceName, flags, securityOptions }: MountRequest): ErofsOptions {
  return {
    source: sourceName,
    options: [...(flags.silent ? [["silent", ""] as const] : []), ...securityOptions.map(splitOption)],
    attributes: readOnlyMountAttributes(flags),
  };
}

/** `key=value`; quotes around a value belong to the data string of mount(2) and not to the value. */
function splitOption(option: string): readonly [string, string] {
  const at = option.indexOf("=");
  if (at < 0) return [option, ""];
  return [option.slice(0, at), option.slice(at + 1).replace(/^"(.*)"$/s, "$1")];
}

/** FUSE with the device files, reached by this process alone, and the kernel's EROFS on them. What fails leaves nothing. */
export async function makeDeviceMount(request: ServingRequest, erofs: ErofsOptions): Promise<DeviceMount> {
  const { fuseFd, mountFd: filesFd } = mountFuseDetached();
  let serving: Serving | undefined;
  try {
    serving = new Serving(request, [fuseFd], "devices");
    return { serving, ...(await mountOnFiles(request, filesFd, erofs)) };
  } catch (error) {
    await serving?.stop();
    throw error;
  } finally {
    await closeFd(filesFd);
  }
}

/** All files are closed when it returns: the close(2) of one whose session has ended fails. */
async function mountOnFiles({ tree }: ServingRequest, filesFd: number, erofs: ErofsOptions): Promise<ErofsMountPoint> {
  await using cleanup = new Cleanup();
  // Before the files are opened: each takes the readahead of its mount as it is then.
  await raiseReadahead(await deviceOf(filesFd));
  const openFile = async (name: string): Promise<number> => {
    const fd = await promisify(open)(`/proc/self/fd/${filesFd}/${name}`, "r");
    cleanup.defer(() => closeFd(fd));
    return fd;
  };
  const imageFd = await openFile("index");
  const deviceFds: number[] = [];
  let allServed = true;
  for (const slot of tree.devices.keys()) {
    const lent = await tree.lend?.(slot);
    if (lent !== undefined) {
      allServed = false;
      cleanup.defer(() => closeFd(lent));
    }
    deviceFds.push(lent ?? (await openFile(String(slot + 1))));
  }
  const mount = { ...erofs, imageFd, deviceFds };
  if (!allServed) return await mountErofsOn(mount);
  // Past the page cache of the files below: nothing is cached twice, and what they are asked for is what EROFS wants of a file, where their
  // own readahead would go on beyond its end. A disk's blocks may be larger than EROFS', so not where a file of the cache is among them.
  try {
    return await mountErofsOn({ ...mount, options: [DIRECT_IO, ...mount.options] });
  } catch (error) {
    if (!isOcifsError(error, "unsupported")) throw error;
    // Not every kernel that mounts files knows the option.
    return await mountErofsOn(mount);
  }
}

/** The kernel's EROFS on these files, with readahead like the other drivers'. */
export async function mountErofsOn(mount: KernelErofsMount): Promise<ErofsMountPoint> {
  const mountFd = await mountErofs(mount);
  try {
    const device = await deviceOf(mountFd);
    await raiseReadahead(device);
    return { mountFd, device };
  } catch (error) {
    await closeFd(mountFd);
    throw error;
  }
}

async function deviceOf(fd: number): Promise<string> {
  return deviceName((await promisify(fstat)(fd)).dev);
}
