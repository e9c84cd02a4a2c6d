import type { Pool as UndiciPool } from "undici";
import api from "undici/lib/api/index.js";
import dispatcher from "undici/lib/dispatcher/dispatcher.js";
import pool from "undici/lib/dispatcher/pool.js";

/**
 * undici's Pool without the rest of the package. Its index also loads fetch, WebSocket, caches and mocks, which costs every
 * command and every mount 70 ms of processor time at its start. The index does nothing to the Pool but mix the request
 * methods into Dispatcher, which is repeated here; a test compares this Pool with the package's.
 */
Object.assign(dispatcher.prototype, api);

export type Pool = UndiciPool;
export const Pool = pool;
