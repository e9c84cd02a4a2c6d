import { close, fstat, open } from "node:fs";
import { promisify } from "node:util";
import { Cleanup } from "../base/cleanup.js";
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
  for (const slot of tree.devices.keys()) {
    const lent = await tree.lend?.(slot);
    if (lent !== undefined) cleanup.defer(() => closeFd(lent));
    deviceFds.push(lent ?? (await openFile(String(slot + 1))));
  }
  const mountFd = await mountErofs({ source, imageFd, deviceFds, options, attributes });
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
