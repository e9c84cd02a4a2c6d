import { resolvePath } from "../../erofs/path-walk.js";
import { type ErofsTree, fileTypeMask, fileTypes, joinPath } from "../../erofs/reader.js";
import type { ErofsAttr } from "../../native/erofs.js";
import { defineCommand, jsonOption } from "../command.js";
import { printableName, printJson, printTable } from "../output.js";
import { describeAttr, formatMode, formatTime } from "./entry-format.js";
import { pathBytes, type TreeArguments, treeOptions, withImageTree } from "./image-tree.js";

interface Arguments extends TreeArguments {
  long: boolean;
  recursive: boolean;
  json: boolean;
}

/** `ocifs ls`: a directory of an image, without mounting it and without fetching any content. */
export const lsCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    jsonOption(treeOptions(yargs))
      .positional("path", { type: "string", default: "/", describe: "Path inside the image" })
      .option("long", { alias: "l", type: "boolean", default: false, describe: "Mode, owner, size and time too" })
      .option("recursive", { alias: "R", type: "boolean", default: false, describe: "Everything below as well" }),
  run: async (args, context) => {
    await withImageTree(args, context, async (tree) => {
      const entries = [...list(tree, pathBytes(args.path), args.recursive)];
      const { stdout } = context;
      if (args.json) {
        printJson(
          stdout,
          entries.map(({ name, attr }) => ({
            name: printableName(name),
            ...describeAttr(attr),
            ...target(tree, attr),
          })),
        );
      } else if (args.long) {
        printTable(
          stdout,
          [
            { title: "MODE" },
            { title: "LINKS", align: "right" },
            { title: "OWNER", align: "right" },
            { title: "SIZE", align: "right" },
            { title: "MODIFIED" },
            { title: "NAME" },
          ],
          entries.map(({ name, attr }) => {
            const link = target(tree, attr).target;
            return [
              formatMode(attr.mode),
              String(attr.nlink),
              `${attr.uid}:${attr.gid}`,
              String(attr.sizeBytes),
              formatTime(attr),
              link === undefined ? printableName(name) : `${printableName(name)} -> ${link}`,
            ];
          }),
        );
      } else {
        for (const { name } of entries) stdout.write(`${printableName(name)}\n`);
      }
    });
  },
});

function* list(
  tree: ErofsTree,
  path: Uint8Array,
  recursive: boolean,
): Generator<{ name: Uint8Array; attr: ErofsAttr }> {
  const { nid, attr, path: real } = resolvePath(tree, path);
  if ((attr.mode & fileTypeMask) !== fileTypes.directory) {
    yield { name: real, attr };
    return;
  }
  if (recursive) {
    for (const entry of tree.walk(nid, joinPath(real, new Uint8Array()))) yield { name: entry.path, attr: entry.attr };
    return;
  }
  for (const entry of tree.entries(nid)) yield { name: entry.name, attr: tree.stat(entry.nid) };
}

function target(tree: ErofsTree, attr: ErofsAttr): { target?: string } {
  return (attr.mode & fileTypeMask) === fileTypes.symlink ? { target: printableName(tree.readlink(attr.nid)) } : {};
}
