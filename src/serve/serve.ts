import { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { CacheDirectory } from "../cache/cache-directory.js";
import { SocketPoller } from "../native/fdpass.js";
import { CachedLayers } from "./cached-layers.js";
import { Connection } from "./connection.js";
import { FdServer } from "./fd-server.js";
import { LayerStreams } from "./layer-streams.js";
import type { Mounter } from "./mount-methods.js";
import { storeMethods } from "./store-methods.js";

/** The cache behind a socket, until it is disposed of. */
export async function serveCache(cacheDir: string, path: string, mounter: Mounter, log: Log): Promise<AsyncDisposable> {
  const cleanup = new Cleanup();
  try {
    const cache = cleanup.add(await CacheDirectory.open(cacheDir));
    if (cache.unusable !== undefined)
      throw new OcifsError("io", `cache ${cacheDir}: it cannot be used: ${cache.unusable}`);
    const poller = new SocketPoller();
    cleanup.defer(() => poller[Symbol.dispose]());
    const layers = new CachedLayers(cache, log);
    const streams = cleanup.add(new LayerStreams(layers, poller));
    const methods = storeMethods(layers, streams, mounter, log);
    cleanup.add(await FdServer.listen(path, { open: (socket) => new Connection(socket, methods), log }));
    return cleanup;
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}
