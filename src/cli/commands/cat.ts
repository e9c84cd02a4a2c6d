import { OcifsError } from "../../base/errors.js";
import { resolvePath } from "../../erofs/path-walk.js";
import { fileTypeMask, fileTypes } from "../../erofs/reader.js";
import { defineCommand } from "../command.js";
import { pathBytes, type TreeArguments, treeOptions, withImageTree } from "./image-tree.js";

/** `ocifs cat`: a file's content, fetching only the spans that it lies in. */
export const catCommand = defineCommand<TreeArguments>({
  builder: (yargs) =>
    treeOptions(yargs).positional("path", { type: "string", demandOption: true, describe: "Path inside the image" }),
  run: async (args, context) => {
    await withImageTree(args, context, async (tree, image) => {
      const { nid, attr } = resolvePath(tree, pathBytes(args.path));
      if ((attr.mode & fileTypeMask) !== fileTypes.file) {
        throw new OcifsError("usage", `${args.path}: it is not a regular file`);
      }
      const devices = image.layers.map((layer) => layer.device);
      for await (const chunk of tree.readFile(nid, devices, context.signal)) await context.writeBytes(chunk);
    });
  },
});
