import { measureCache, usageKinds } from "../../cache/cache-usage.js";
import { defineCommand, jsonOption } from "../command.js";
import { printJson, printTable } from "../output.js";
import { formatSize } from "../units.js";
import { cacheOption, cachePathOf } from "./cache-arguments.js";

/** `ocifs cache du`: what the cache takes up, by kind. */
export const cacheDuCommand = defineCommand<{ json: boolean; cachedir: string | undefined }>({
  builder: (yargs) => jsonOption(cacheOption(yargs)),
  run: async (args, { stdout }) => {
    const path = cachePathOf(args);
    const kinds = await measureCache(path);
    const total = { apparentBytes: 0, allocatedBytes: 0, files: 0 };
    for (const kind of usageKinds) {
      total.apparentBytes += kinds[kind].apparentBytes;
      total.allocatedBytes += kinds[kind].allocatedBytes;
      total.files += kinds[kind].files;
    }
    if (args.json) {
      printJson(stdout, { path, total, kinds });
      return;
    }
    printTable(
      stdout,
      [
        { title: "KIND" },
        { title: "FILES", align: "right" },
        { title: "ON DISK", align: "right" },
        { title: "SIZE", align: "right" },
      ],
      [...usageKinds.map((kind) => [kind, kinds[kind]] as const), ["total", total] as const].map(([name, sum]) => [
        name,
        String(sum.files),
        formatSize(sum.allocatedBytes),
        formatSize(sum.apparentBytes),
      ]),
    );
  },
});
