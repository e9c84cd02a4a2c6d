import { Cleanup } from "../base/cleanup.js";
import type { Log } from "../base/log.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import type { ImageStore } from "../cache/image-store.js";
import { RegistryClient, type RegistryClientOptions } from "../registry/client.js";
import { ProxyBlobs } from "./blobs.js";
import { RequestHandler } from "./handler.js";
import { type ListenOptions, ProxyServer } from "./server.js";
import { Upstream } from "./upstream.js";

export interface ProxyOptions extends ListenOptions {
  /** Canonical names; the first serves requests that name none. */
  readonly registries: readonly string[];
  readonly client: RegistryClientOptions;
  readonly forwardsLogins: boolean;
  /** Stays the caller's. */
  readonly cache: CacheDirectory;
  readonly store: ImageStore;
  readonly log: Log;
}

export interface RunningProxy {
  /** `http://HOST:PORT`. */
  readonly url: string;
  /** Lets running answers go on for `drainMs`; then everything is closed. */
  stop(drainMs: number): Promise<void>;
}

/** Starts a proxy; it listens when this returns. Throws `io` when it cannot listen. */
export async function openProxy(options: ProxyOptions): Promise<RunningProxy> {
  const { registries, client, forwardsLogins, cache, store, log, host, tls } = options;
  await using undo = new Cleanup();
  const upstreams = [...new Set(registries)].map((registry) =>
    undo.add(new Upstream(new RegistryClient(registry, client), store)),
  );
  const blobs = undo.add(new ProxyBlobs(cache, log));
  const handler = new RequestHandler({ upstreams, blobs, forwardsLogins, log });
  const server = await ProxyServer.listen(options, handler);
  const opened = undo.release();
  const { port } = server.address;
  return {
    url: `${tls === undefined ? "http" : "https"}://${host.includes(":") ? `[${host}]` : host}:${port}`,
    stop: async (drainMs) => {
      await using _ = opened;
      await server.stop(drainMs);
      for (const upstream of upstreams) {
        const { requests, bytes, retries } = upstream.stats();
        log.info("the proxy ends", { registry: upstream.registry, requests, bytes, retries, served: handler.counts });
      }
    },
  };
}
