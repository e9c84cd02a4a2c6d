import { once } from "node:events";
import { resolve } from "node:path";
import { openLog } from "../../base/log.js";
import { serveCache } from "../../serve/serve.js";
import { defineCommand } from "../command.js";
import { socketMounts } from "../socket-mounts.js";
import { cacheOption, cachePathOf } from "./cache-arguments.js";

interface Arguments {
  socket: string;
  cachedir: string | undefined;
}

/** `ocifs serve`: the cache's layers, and mounts, for other programs on this machine, until SIGINT or SIGTERM. */
export const serveCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    cacheOption(yargs).option("socket", {
      type: "string",
      demandOption: true,
      requiresArg: true,
      describe: "Where to listen; only this user and root may connect",
    }),
  run: async (args, { stdout, signal }) => {
    const path = resolve(args.socket);
    const cacheDir = cachePathOf(args);
    await using _ = await serveCache(cacheDir, path, socketMounts(cacheDir), openLog("warn", 2));
    stdout.write(`listening at ${path}\n`);
    if (!signal.aborted) await once(signal, "abort");
  },
});
