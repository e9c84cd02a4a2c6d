import { randomBytes } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { closeFd, openFd, writeFully } from "../cache/raw-file.js";
import { exportStream, filesWorthPassing } from "../content/export-layer.js";
import { objectNameOf } from "../content/layer-table.js";
import { openBeneath } from "../native/content.js";
import { duplicateFd, openPipe, type SocketPoller } from "../native/fdpass.js";
import type { Digest } from "../oci/digest.js";
import type { CachedLayers, ServedLayer } from "./cached-layers.js";

/** A finished stream and what it names. The descriptors are whoever's takes it. */
export interface LayerStream {
  readonly sizeBytes: number;
  /** The stream first, at its beginning and for reading only; then files, or directories. */
  readonly fds: readonly number[];
}

/**
 * Streams of layers for clients. A stream is written to its end into an unlinked file before anybody gets it, so a client has all of a
 * layer or an error, and one that does not read holds up nobody.
 */
export class LayerStreams implements AsyncDisposable {
  readonly #layers: CachedLayers;
  readonly #poller: SocketPoller;
  /** Layers that are kept as they are for clients that still read them, oldest first. */
  readonly #leases: { readonly readFd: number; readonly layer: ServedLayer }[] = [];
  #writing = 0;

  /** `poller` stays the caller's and lives longer. */
  constructor(layers: CachedLayers, poller: SocketPoller) {
    this.#layers = layers;
    this.#poller = poller;
  }

  /** splitfdstream: the larger files as descriptors, as many as one process can be expected to take. */
  async splitFd(digest: Digest, signal: AbortSignal): Promise<LayerStream> {
    return await this.#withLayer(digest, signal, async (served, fds) => {
      const { layer, store } = served;
      const files = filesWorthPassing(store, limits.streamFds - 1);
      const sizeBytes = await this.#write(served, fds, (write) =>
        exportStream(
          { device: layer.device, format: "splitfdstream", store, files, diffId: store.tarDigest, signal },
          write,
        ),
      );
      for (const i of files) {
        const name = Buffer.from(objectNameOf(store.table, i) ?? "");
        fds.push(openBeneath(store.objectsFd, name, store.table.sizes[i] ?? 0));
      }
      await served[Symbol.asyncDispose]();
      return { sizeBytes, fds };
    });
  }

  /** splitdirfdstream: one directory, and last a descriptor to be closed when the layer is no longer needed. */
  async splitDirFd(digest: Digest, signal: AbortSignal): Promise<LayerStream> {
    return await this.#withLayer(digest, signal, async (served, fds) => {
      const { layer, store } = served;
      const sizeBytes = await this.#write(served, fds, (write) =>
        exportStream(
          { device: layer.device, format: "splitdirfdstream", store, diffId: store.tarDigest, signal },
          write,
        ),
      );
      fds.push(duplicateFd(store.objectsFd));
      fds.push(await this.#lease(served));
      return { sizeBytes, fds };
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    while (this.#leases.length > 0) await this.#endLease(this.#leases[0]);
  }

  async #withLayer(
    digest: Digest,
    signal: AbortSignal,
    make: (layer: ServedLayer, fds: number[]) => Promise<LayerStream>,
  ): Promise<LayerStream> {
    if (this.#writing >= limits.serveStreams) {
      throw new OcifsError("busy", `layer ${digest}: ${limits.serveStreams} streams are being written; try again`);
    }
    this.#writing++;
    const fds: number[] = [];
    let served: ServedLayer | undefined;
    try {
      served = await this.#layers.open(digest, signal);
      return await make(served, fds);
    } catch (error) {
      for (const fd of fds) closeSync(fd);
      await served?.[Symbol.asyncDispose]();
      throw error;
    } finally {
      this.#writing--;
    }
  }

  async #write(
    { store }: ServedLayer,
    fds: number[],
    run: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
  ): Promise<number> {
    using granted = await this.#layers.cache.room.reserve(store.table.tarBytes);
    if (!granted)
      throw new OcifsError("no-space", `layer: the cache's limit leaves no room for its stream; raise cachesize=`);
    const path = join(this.#layers.cache.path, `.stream-${randomBytes(6).toString("hex")}.tmp`);
    const file = await openFd(path, "create");
    try {
      // Another description of the file: its own offset, at the beginning, and no right to write.
      fds.push(openSync(path, "r"));
      await rm(path);
      let at = 0;
      await run(async (bytes) => {
        await writeFully(file, bytes, at);
        at += bytes.length;
      });
      return at;
    } finally {
      await closeFd(file);
      await rm(path, { force: true });
    }
  }

  /**
   * Keeps the layer open until the returned end of a pipe is closed by all who have it. The oldest lease gives way when there are too
   * many: its client then finds files gone at worst, and starts over.
   */
  async #lease(layer: ServedLayer): Promise<number> {
    if (this.#leases.length >= limits.serveStreams) await this.#endLease(this.#leases[0]);
    const { readFd, writeFd } = openPipe();
    const lease = { readFd, layer };
    this.#leases.push(lease);
    void this.#poller.ready(readFd, "read").then(
      () => this.#endLease(lease),
      () => this.#endLease(lease),
    );
    return writeFd;
  }

  async #endLease(lease: { readonly readFd: number; readonly layer: ServedLayer } | undefined): Promise<void> {
    const at = lease ? this.#leases.indexOf(lease) : -1;
    if (!lease || at < 0) return;
    this.#leases.splice(at, 1);
    this.#poller.forget(lease.readFd);
    closeSync(lease.readFd);
    await lease.layer[Symbol.asyncDispose]();
  }
}
