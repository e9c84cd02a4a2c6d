import { resolvePath } from "../../erofs/path-walk.js";
import { fileTypeMask, fileTypes } from "../../erofs/reader.js";
import { defineCommand, jsonOption } from "../command.js";
import { printableName, printJson } from "../output.js";
import { describeAttr, formatMode } from "./entry-format.js";
import { pathBytes, type TreeArguments, treeOptions, withImageTree } from "./image-tree.js";

interface Arguments extends TreeArguments {
  json: boolean;
}

/** `ocifs stat`: everything the index knows of one entry, xattrs included. A symbolic link is shown itself, as lstat does. */
export const statCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    jsonOption(treeOptions(yargs)).positional("path", {
      type: "string",
      demandOption: true,
      describe: "Path inside the image",
    }),
  run: async (args, context) => {
    await withImageTree(args, context, async (tree) => {
      const { nid, attr, path } = resolvePath(tree, pathBytes(args.path), { followLast: false });
      const xattrs = Object.fromEntries(
        [...tree.xattrs(nid)].map(({ name, value }) => [printableName(name), Buffer.from(value).toString("base64")]),
      );
      const isLink = (attr.mode & fileTypeMask) === fileTypes.symlink;
      const facts = {
        path: printableName(path),
        ...describeAttr(attr),
        ...(isLink ? { target: printableName(tree.readlink(nid)) } : {}),
        ...(Object.keys(xattrs).length > 0 ? { xattrs } : {}),
      };
      if (args.json) {
        printJson(context.stdout, facts);
        return;
      }
      for (const [key, value] of Object.entries({ ...facts, mode: formatMode(attr.mode) })) {
        const lines =
          key === "xattrs" ? Object.entries(xattrs).map(([name, text]) => `${name}=${text} (base64)`) : [String(value)];
        for (const line of lines) context.stdout.write(`${key}: ${line}\n`);
      }
    });
  },
});
