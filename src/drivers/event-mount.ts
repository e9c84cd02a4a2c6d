import { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import { monotonicMs } from "../base/steps.js";
import { openFd, openUnnamed, writeFully } from "../cache/raw-file.js";
import type { ErofsImage } from "../native/erofs.js";
import { createEventGroup, type EventFds, EventWatcher, markData, markRelease } from "../native/fanotify.js";
import { closeFd, type ErofsMountPoint, type ErofsOptions, mountErofsOn } from "./device-mount.js";
import type { MountableTree, MountRequest } from "./driver.js";

const COPY_BYTES = 1 << 20;

/** What a mount with events needs of the request. */
export type EventRequest = Pick<MountRequest, "tree" | "onMiss"> & Guarded;

interface Guarded {
  /** The process that has the descriptors too; undefined where none does. */
  readonly guardPid: number | undefined;
}

/** Who answers, and of what. */
type AnsweringRequest = Pick<MountRequest, "onMiss"> &
  Guarded & { readonly tree: Pick<MountableTree, "devices" | "checked"> };

/** An EROFS mount that has no path yet, and who answers before it reads. */
export interface EventMount extends ErofsMountPoint {
  readonly events: Events;
}

/** The events of one mount from the first to the last. */
export class Events {
  /** Resolves when the kernel has let go of all files. */
  readonly released: Promise<void>;
  /** Resolves when the process that keeps the descriptors too has ended; what is missing is refused then. */
  readonly guardGone: Promise<void>;
  readonly watcher: EventWatcher;

  /** Takes the descriptors over, also when it throws. */
  constructor({ tree, onMiss, guardPid }: AnsweringRequest, fds: EventFds, how: { readonly adopted?: boolean } = {}) {
    let onReleased: () => void = () => undefined;
    let onGuardGone: () => void = () => undefined;
    this.released = new Promise((resolve) => {
      onReleased = resolve;
    });
    this.guardGone = new Promise((resolve) => {
      onGuardGone = resolve;
    });
    this.watcher = new EventWatcher(fds, {
      guardPid,
      adopted: how.adopted ?? false,
      devices: tree.devices,
      checked: tree.devices.map((_, slot) => tree.checked?.(slot) ?? false),
      // Which file of the image is read, and where it ends, only the kernel knows.
      onMiss: (device, first, last) => onMiss(device, first, last, last, monotonicMs()),
      onReleased,
      onGuardGone,
    });
  }
}

/**
 * The kernel's EROFS on the layers' own files in the cache, which it asks for before it reads them. Layers that are complete are lent, and
 * it does not ask for those. What fails leaves nothing.
 */
export async function makeEventMount(request: EventRequest, erofs: ErofsOptions): Promise<EventMount> {
  const { tree } = request;
  if (tree.directory === undefined)
    throw new OcifsError("unsupported", "there is no disk cache for the kernel to read");
  const { groupFd, tableFd } = createEventGroup();
  const indexFd = await openIndex(tree.directory, tree.image, [groupFd, tableFd]);
  const events = new Events(request, { groupFd, tableFd, indexFd });
  try {
    const mount = await mountOnFiles(request, { groupFd, indexFd }, erofs);
    // Only now: what was closed before was our own.
    markRelease(groupFd, indexFd);
    return { ...mount, events };
  } catch (error) {
    await events.watcher.stop();
    throw error;
  }
}

async function mountOnFiles(
  { tree }: EventRequest,
  { groupFd, indexFd }: { readonly groupFd: number; readonly indexFd: number },
  erofs: ErofsOptions,
): Promise<ErofsMountPoint> {
  await using cleanup = new Cleanup();
  const imageFd = await openFd(`/proc/self/fd/${indexFd}`, "read");
  cleanup.defer(() => closeFd(imageFd));
  const deviceFds: number[] = [];
  for (const slot of tree.devices.keys()) {
    const lent = await tree.lend?.(slot);
    const fd = lent ?? (await tree.watch?.(slot));
    if (fd === undefined) throw new OcifsError("unsupported", "the layers are in no files that the kernel could read");
    cleanup.defer(() => closeFd(fd));
    // Before EROFS opens it: only descriptors that are opened later raise events.
    if (lent === undefined) markData(groupFd, fd);
    deviceFds.push(fd);
  }
  return await mountErofsOn({ ...erofs, imageFd, deviceFds });
}

/**
 * The tarindex as a file of its own that has no name: EROFS reads metadata without asking, so all of it has to be there, and nobody can
 * change it. Closes `others` when it fails.
 */
async function openIndex(directory: string, image: ErofsImage, others: readonly number[]): Promise<number> {
  const opened: number[] = [...others];
  try {
    const fd = await openUnnamed(directory);
    opened.push(fd);
    const { sizeBytes } = image.info();
    for (let at = 0; at < sizeBytes; at += COPY_BYTES) {
      await writeFully(fd, image.readIndex(at, Math.min(COPY_BYTES, sizeBytes - at)), at);
    }
    return fd;
  } catch (error) {
    for (const fd of opened) await closeFd(fd);
    throw error;
  }
}
