import { isAbsolute } from "node:path";
import { OcifsError } from "../base/errors.js";
import { launchDaemon } from "../daemon/launch.js";
import { unmountOcifs } from "../daemon/unmount.js";
import type { Mounter } from "../serve/mount-methods.js";
import { toMountConfig } from "./mount-config.js";
import { type MountRequest, parseMountCommand } from "./mount-grammar.js";
import { findMountpoint } from "./mountpoint.js";
import { remount } from "./remount.js";

/**
 * Mounts for clients of a socket, as mount.ocifs makes them: the same options and errors, a daemon of their own that outlives
 * this process. They use `cacheDir` unless they name another.
 */
export function socketMounts(cacheDir: string): Mounter {
  return {
    async mount({ image, mountpoint, options }, signal) {
      const words = options === "" ? [] : ["-o", options];
      const command = parseMountCommand([...words, "--", image, mountpoint]);
      if (command.kind !== "mount") throw new OcifsError("internal", "mount: the command is none");
      const { request } = command;
      if (request.options.foreground) {
        throw new OcifsError("usage", "foreground: there is no terminal behind the socket; leave it out");
      }
      refuseRelative(request);
      const directory = await findMountpoint(mountpoint);
      if (request.remount) {
        await remount(directory, request.flags);
        return { mountpoint: directory, warnings: [] };
      }
      const chosen = { ...request.options, cacheDir: request.options.cacheDir ?? cacheDir };
      const config = await toMountConfig({ ...request, options: chosen }, directory);
      const { pid, driver, warnings } = await launchDaemon(config, signal, () => undefined);
      return { mountpoint: directory, pid, driver, warnings };
    },
    unmount: unmountOcifs,
  };
}

/** What the client calls "here" is not where this process is. */
function refuseRelative({ source, mountpoint, options }: MountRequest): void {
  const { tarindex, zinfo, cacheDir, hostsDir, passwordFile, log } = options;
  const ofSource = /^(?:file|oci):(.+)/s.exec(source)?.[1];
  for (const path of [ofSource, mountpoint, tarindex, zinfo, cacheDir, hostsDir, passwordFile, log.path]) {
    if (path !== undefined && !isAbsolute(path)) {
      throw new OcifsError(
        "usage",
        `${path}: want an absolute path; a relative one would mean something else to this server`,
      );
    }
  }
}
