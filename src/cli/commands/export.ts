import { resolve } from "node:path";
import { AtomicFile } from "../../cache/atomic-file.js";
import { CacheDirectory } from "../../cache/cache-directory.js";
import { ContentDirectory } from "../../content/beside.js";
import { type ExportFormat, exportFormats, exportImage } from "../../content/export-image.js";
import { defineCommand } from "../command.js";
import { type TreeArguments, treeOptions, withImageTree } from "./image-tree.js";

interface Arguments extends TreeArguments {
  format: ExportFormat;
  output: string | undefined;
  content: string | undefined;
}

/** `ocifs export`: a layer, or the tree of an image, in a form that other tools take. */
export const exportCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    treeOptions(yargs)
      .option("format", { choices: exportFormats, default: "tar" as const, describe: "What is written" })
      .option("output", { alias: "o", type: "string", requiresArg: true, describe: "File; default: standard output" })
      .option("content", {
        type: "string",
        requiresArg: true,
        describe: "Directory for the file contents that the output names; default: in the output",
      }),
  run: async (args, context) => {
    await withImageTree(args, context, async (tree, image, cacheDir) => {
      await using cache = await CacheDirectory.open(cacheDir);
      await using content = args.content === undefined ? undefined : await ContentDirectory.open(resolve(args.content));
      const { format } = args;
      const options = { format, room: cache.room, content: content ?? undefined, signal: context.signal };
      const layered = { tree: tree.image, layers: image.layers };
      if (args.output === undefined) return await exportImage(layered, options, context.writeBytes);
      // Whole or not at all: a file of this name is never a part of a layer.
      await using file = await AtomicFile.create(resolve(args.output));
      await exportImage(layered, options, (bytes) => file.append(bytes));
      await file.commit();
    });
  },
});
