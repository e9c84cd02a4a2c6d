import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { messageOf, OcifsError } from "../base/errors.js";
import { readMountTable } from "../base/mount-table.js";
import type { MountFlags } from "../drivers/driver.js";

/** What mounts by ocifs look like in /proc/self/mountinfo. */
const types = new Set(["fuse.ocifs", "erofs"]);

/**
 * Gives a mount other flags (`mount -o remount,ro,noexec DIR`); it stays read-only, and its daemon hears nothing of it. The
 * flags are those of the whole list that mount(8) has put together, as remount(2) wants them. `mountpoint` is a real path.
 */
export async function remount(mountpoint: string, flags: MountFlags): Promise<void> {
  const mounted = (await readMountTable("self")).findLast(({ path }) => path === mountpoint);
  if (mounted === undefined || !types.has(mounted.type)) {
    throw new OcifsError("usage", `remount ${mountpoint}: no mount of ocifs is there; leave remount out to make one`);
  }
  const given = Object.entries(flags).flatMap(([name, on]) => (on && name !== "silent" ? [name] : []));
  try {
    // Internal only: mount(8) would call this helper again.
    await promisify(execFile)("mount", [
      "-i",
      "-o",
      ["remount", "bind", "ro", ...given].join(","),
      "ocifs",
      mountpoint,
    ]);
  } catch (cause) {
    const said = (cause as { stderr?: string }).stderr?.trim().split("\n")[0] || messageOf(cause);
    throw new OcifsError("io", `remount ${mountpoint}: ${said}`, { cause });
  }
}
