import { createRequire } from "node:module";
import type { Pool as UndiciPool } from "undici";

/**
 * undici's Pool without the rest of the package. Its index also loads fetch, WebSocket, caches and mocks, which costs every
 * command and every mount 70 ms of processor time at its start. The index does nothing to the Pool but mix the request
 * methods into Dispatcher, which is repeated here; a test compares this Pool with the package's.
 */
const require = createRequire(import.meta.url);
const dispatcher = require("undici/lib/dispatcher/dispatcher.js") as { prototype: object };
const api = require("undici/lib/api/index.js") as object;

Object.assign(dispatcher.prototype, api);

export type Pool = UndiciPool;
export const Pool = require("undici/lib/dispatcher/pool.js") as typeof UndiciPool;
