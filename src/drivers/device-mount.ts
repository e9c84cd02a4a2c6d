import { close, fstat, open } from "node:fs";
import { promisify } from "node:util";
import { Cleanup } from "../base/cleanup.js";
import { isOcifsError } from "../base/errors.js";
import { mountErofs, mountFuseDetached } from "../native/mount.js";
import { deviceName } from "./mountpoint.js";
import { raiseReadahead, Serving, type ServingRequest } from "./serving.js";

export interface ErofsOptions {
  readonly sourceName: string;
  readonly options: readonly (readonly [key: string, value: string])[];
  /** Of fsmount(2). */
  readonly attributes: number;
}

/** An EROFS mount that has no path yet, and the session of the device files below it. */
export interface DeviceMount {
  readonly serving: Serving;
  /** Of the EROFS mount's root directory; the caller's. */
  readonly mountFd: number;
  /** "major:minor" of the EROFS mount. */
  readonly device: string;
}

const DIRECT_IO = ["directio", ""] as const;

export const closeFd = promisify(close);

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
async function mountOnFiles(
  { tree }: ServingRequest,
  filesFd: number,
  { sourceName: source, options, attributes }: ErofsOptions,
): Promise<{ readonly mountFd: number; readonly device: string }> {
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
  const mount = { source, imageFd, deviceFds, attributes };
  // Past the page cache of the files below: nothing is cached twice, and what they are asked for is what EROFS wants of a file, where their
  // own readahead would go on beyond its end. A disk's blocks may be larger than EROFS', so not where a file of the cache is among them.
  const direct = allServed ? [DIRECT_IO, ...options] : options;
  const mountFd = await mountErofs({ ...mount, options: direct }).catch((error: unknown) => {
    if (!allServed || !isOcifsError(error, "unsupported")) throw error;
    // Not every kernel that mounts files knows the option.
    return mountErofs({ ...mount, options });
  });
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
