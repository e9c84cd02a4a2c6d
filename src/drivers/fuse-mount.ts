import { stat } from "node:fs/promises";
import { messageOf, OcifsError } from "../base/errors.js";
import { findDirectory, mountFuse } from "../native/mount.js";
import type { MadeMount, MountRequest } from "./driver.js";
import { mountThroughFusermount } from "./fusermount.js";
import { readOnlyMountBits } from "./mount-flags.js";
import { deviceName } from "./mountpoint.js";
import { raiseReadahead } from "./serving.js";

/** What making the mount needs of a request, and serving it does not. */
export type FuseMountRequest = Pick<
  MountRequest,
  "mountpoint" | "sourceName" | "allowOther" | "flags" | "securityOptions" | "namespace"
>;

/** May mount(2): others mount through fusermount3. */
export const isRoot = (): boolean => process.getuid?.() === 0;

/** Makes the mount: nobody serves it yet, so whoever touches it waits. mount(2) as root, fusermount3 otherwise. */
export async function mountFuseAt(request: FuseMountRequest): Promise<MadeMount> {
  if (isRoot()) return await mountAsRoot(request);
  if (request.namespace) throw new OcifsError("unsupported", "only root can mount into another mount namespace");
  return { fd: await mountThroughFusermount(request) };
}

/** For a mount that is served by now: resolves to its "major:minor" when it answers. Throws `io` when it does not. */
export async function finishFuseMount({ mountpoint, namespace }: FuseMountRequest, made: MadeMount): Promise<string> {
  try {
    const device = namespace
      ? await findDirectory(mountpoint, namespace.path).then(() => made.device ?? "")
      : deviceName((await stat(mountpoint)).dev);
    if (isRoot()) await raiseReadahead(device);
    return device;
  } catch (error) {
    throw new OcifsError("io", `${mountpoint}: mounted, but it does not answer: ${messageOf(error)}`, { cause: error });
  }
}

async function mountAsRoot(request: FuseMountRequest): Promise<MadeMount> {
  // As root the mount is for everybody, as every other mount is; the kernel checks permissions.
  const data = [
    "rootmode=40000",
    "user_id=0",
    "group_id=0",
    "default_permissions",
    "allow_other",
    ...request.securityOptions,
  ];
  const { mountpoint, sourceName, flags, namespace } = request;
  const made = await mountFuse(mountpoint, sourceName, readOnlyMountBits(flags), data.join(","), namespace?.path);
  return namespace ? { ...made, namespace: namespace.id } : made;
}
