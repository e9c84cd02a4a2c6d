import { chmod, lstat, rm } from "node:fs/promises";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { Cleanup } from "../base/cleanup.js";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import { CacheDirectory } from "../cache/cache-directory.js";
import { closeFd, openFd } from "../cache/raw-file.js";
import type { MountConfig } from "../daemon/mount-config.js";
import { tryLock } from "../native/sparse.js";
import { parseReference } from "../oci/reference.js";
import { loadSnapshotsService } from "./api.js";
import { DaemonMounts } from "./image-mounts.js";
import { LazyImages } from "./lazy-images.js";
import { snapshotsService } from "./service.js";
import { SnapshotStore } from "./snapshot-store.js";
import { Snapshotter } from "./snapshotter.js";

export interface SnapshotterServerOptions {
  /** Snapshots, their files, mountpoints; docs/FORMATS.md. */
  readonly root: string;
  /** The Unix socket that containerd connects to. */
  readonly address: string;
  /** What every mount is made with. */
  readonly mount: Omit<MountConfig, "source" | "mountpoint" | "layerCount" | "insecure" | "platform">;
  readonly isInsecure: (registry: string) => boolean;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/**
 * Serves containerd until the signal fires. The mounts stay: containers lie on them, and the next snapshotter with this root
 * finds them. `busy` when another one has this root or address.
 */
export async function serveSnapshotter(options: SnapshotterServerOptions, onReady: () => void): Promise<void> {
  const { root, address, mount, isInsecure, log, signal } = options;
  await using cleanup = new Cleanup();
  await ensureDirectory(root, 0o700);
  await lockRoot(root, cleanup);
  const limit = mount.cacheSizeBytes === undefined ? {} : { limitBytes: mount.cacheSizeBytes };
  const cache = cleanup.add(await CacheDirectory.open(mount.cacheDir, limit));
  if (cache.unusable !== undefined) log.warn("the cache cannot be used", { reason: cache.unusable });
  const store = await SnapshotStore.open(join(root, "records"), log);
  const mounts = new DaemonMounts({
    directory: join(root, "mounts"),
    configOf: ({ source }) => ({ ...mount, insecure: isInsecure(parseReference(source).registry) }),
    log,
    signal,
  });
  const images = new LazyImages({ cache, isInsecure, timeoutMs: mount.timeoutMs, log, signal });
  const snapshotter = new Snapshotter({ root, cachePath: mount.cacheDir, store, mounts, images, log, signal });
  await snapshotter.restore();
  cleanup.defer(() => snapshotter.collected());
  const server = new Server({
    "grpc.max_receive_message_length": limits.snapshotRequestBytes,
    "grpc.max_concurrent_streams": limits.snapshotRequests,
  });
  server.addService(loadSnapshotsService(), snapshotsService(snapshotter, log));
  await claimAddress(address);
  await listen(server, address);
  cleanup.defer(() => server.forceShutdown());
  onReady();
  log.info("serving", { address, root, snapshots: store.all().length });
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
}

async function lockRoot(root: string, cleanup: Cleanup): Promise<void> {
  const fd = await openFd(join(root, "lock"), "create");
  cleanup.defer(() => closeFd(fd));
  if (!tryLock(fd, 0, 1, "exclusive")) {
    throw new OcifsError(
      "busy",
      `snapshotter root ${root}: another snapshotter uses it; end that one, or choose another --root`,
    );
  }
}

/** A socket that nobody listens at is left of a dead process. */
async function claimAddress(address: string): Promise<void> {
  await ensureDirectory(dirname(address), 0o700);
  const info = await lstat(address).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
    return undefined;
  });
  if (info === undefined) return;
  if (!info.isSocket())
    throw new OcifsError("busy", `address ${address}: there is something else than a socket; remove it`);
  const answers = await new Promise<boolean>((resolve) => {
    const socket = connect(address, () => resolve(true));
    socket.once("error", () => resolve(false));
    socket.once("close", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
  if (answers)
    throw new OcifsError("busy", `address ${address}: somebody else listens there; choose another --address`);
  await rm(address);
}

async function listen(server: Server, address: string): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(`unix:${address}`, ServerCredentials.createInsecure(), (error) =>
        error ? reject(error) : resolve(),
      ),
    );
    await chmod(address, 0o600);
  } catch (cause) {
    throw new OcifsError("io", `address ${address}: ${messageOf(cause)}`, { cause });
  }
}
