import { OcifsError } from "../../base/errors.js";
import { collectGarbage } from "../../cache/collect.js";
import { defineCommand, jsonOption } from "../command.js";
import { printJson } from "../output.js";
import { formatSize, parseSizeBytes } from "../units.js";
import { cacheOption, cachePathOf } from "./cache-arguments.js";

interface Arguments {
  json: boolean;
  cachedir: string | undefined;
  size: string | undefined;
}

/** `ocifs cache gc`: removes what nothing refers to, then evicts down to a size. */
export const cacheGcCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    jsonOption(cacheOption(yargs)).option("size", {
      type: "string",
      requiresArg: true,
      describe: "What the cache may take up, such as 10G",
    }),
  run: async (args, { stdout }) => {
    const path = cachePathOf(args);
    const sizeBytes = args.size === undefined ? undefined : parseSizeBytes(args.size, "--size");
    const done = await collectGarbage(path, sizeBytes);
    if (args.json) printJson(stdout, { path, ...done });
    else {
      stdout.write(
        `${done.leftovers} leftovers and ${done.blobs} blobs that nothing refers to; ` +
          `${formatSize(done.freedBytes)} freed, ${formatSize(done.usedBytes)} left\n`,
      );
    }
    if (sizeBytes !== undefined && done.usedBytes > sizeBytes) {
      throw new OcifsError(
        "busy",
        `cache ${path}: it still takes up ${formatSize(done.usedBytes)}; the rest is in use or pinned`,
      );
    }
  },
});
