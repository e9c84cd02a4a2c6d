import { defineGroup, type RegisteredCommand } from "../command.js";
import { cacheDropCommand } from "./cache-drop.js";
import { cacheDuCommand } from "./cache-du.js";
import { cacheGcCommand } from "./cache-gc.js";
import { cacheLsCommand } from "./cache-ls.js";
import { cachePinCommand, cacheUnpinCommand } from "./cache-pin.js";
import { cacheVerifyCommand } from "./cache-verify.js";
import { catCommand } from "./cat.js";
import { exportCommand } from "./export.js";
import { importCommand } from "./import.js";
import { indexCreateCommand } from "./index-create.js";
import { lsCommand } from "./ls.js";
import { serveCommand } from "./serve.js";
import { statCommand } from "./stat.js";
import { statusCommand } from "./status.js";

/** Every subcommand of `ocifs`, in the order in which help lists them. */
export const commands: readonly RegisteredCommand[] = [
  indexCreateCommand,
  lsCommand,
  catCommand,
  statCommand,
  exportCommand,
  importCommand,
  serveCommand,
  statusCommand,
  defineGroup("cache", "What fetched data is kept: du, ls, verify, drop, gc, pin, unpin", [
    cacheDuCommand,
    cacheLsCommand,
    cacheVerifyCommand,
    cacheDropCommand,
    cacheGcCommand,
    cachePinCommand,
    cacheUnpinCommand,
  ]),
];
