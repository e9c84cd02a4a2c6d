import { defineGroup, type RegisteredCommand } from "../command.js";
import { bundleCommand } from "./bundle.js";
import { cacheDropCommand } from "./cache-drop.js";
import { cacheDuCommand } from "./cache-du.js";
import { cacheGcCommand } from "./cache-gc.js";
import { cacheLsCommand } from "./cache-ls.js";
import { cachePinCommand, cacheUnpinCommand } from "./cache-pin.js";
import { cacheVerifyCommand } from "./cache-verify.js";
import { catCommand } from "./cat.js";
import { daemonCommand } from "./daemon.js";
import { exportCommand } from "./export.js";
import { importCommand } from "./import.js";
import { indexCreateCommand } from "./index-create.js";
import { lsCommand } from "./ls.js";
import { metricsCommand } from "./metrics.js";
import { proxyCommand } from "./proxy.js";
import { pullCommand } from "./pull.js";
import { serveCommand } from "./serve.js";
import { snapshotterCommand } from "./snapshotter.js";
import { statCommand } from "./stat.js";
import { statusCommand } from "./status.js";
import { unbundleCommand } from "./unbundle.js";
import { upgradeCommand } from "./upgrade.js";

/** Every subcommand of `ocifs`, in the order in which help lists them. */
export const commands: readonly RegisteredCommand[] = [
  indexCreateCommand,
  lsCommand,
  catCommand,
  statCommand,
  exportCommand,
  importCommand,
  serveCommand,
  daemonCommand,
  statusCommand,
  metricsCommand,
  bundleCommand,
  unbundleCommand,
  proxyCommand,
  snapshotterCommand,
  pullCommand,
  defineGroup("cache", "What fetched data is kept: du, ls, verify, drop, gc, pin, unpin", [
    cacheDuCommand,
    cacheLsCommand,
    cacheVerifyCommand,
    cacheDropCommand,
    cacheGcCommand,
    cachePinCommand,
    cacheUnpinCommand,
  ]),
  upgradeCommand,
];
