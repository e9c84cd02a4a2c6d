import type { Dispatcher as UndiciDispatcher, Pool as UndiciPool } from "undici";
import api from "undici/lib/api/index.js";
import dispatcher from "undici/lib/dispatcher/dispatcher.js";
import pool from "undici/lib/dispatcher/pool.js";

/**
 * undici's Pool without the rest of the package. Its index also loads fetch, WebSocket, caches and mocks, which costs every
 * command and every mount 70 ms of processor time at its start. The index does nothing to the Pool but mix the request
 * methods into Dispatcher, which is repeated here; a test compares this Pool with the package's.
 */
Object.assign(dispatcher.prototype, api);

/** What undici calls of a request when it has a connection for it; it may have more than one try. */
interface Handler {
  onConnect?(...args: unknown[]): unknown;
}

/** A Pool that also tells when a request goes out: `onConnected` among the options of a request is called then. */
class ObservablePool extends pool {
  override dispatch(options: UndiciDispatcher.DispatchOptions, handler: UndiciDispatcher.DispatchHandler): boolean {
    const { onConnected } = options as { onConnected?: () => void };
    if (onConnected) {
      const observed = handler as Handler;
      const onConnect = observed.onConnect?.bind(handler);
      observed.onConnect = (...args) => {
        onConnected();
        return onConnect?.(...args);
      };
    }
    return super.dispatch(options, handler);
  }
}

export type Pool = UndiciPool;
export const Pool = ObservablePool;
