import { createReadStream } from "node:fs";
import { resolve } from "node:path";
import { Cleanup } from "../../base/cleanup.js";
import { OcifsError } from "../../base/errors.js";
import { CacheDirectory } from "../../cache/cache-directory.js";
import { ContentDirectory } from "../../content/beside.js";
import { Destination } from "../../content/destination.js";
import { importLayer, importTree, openStores } from "../../content/import-image.js";
import { decodeStream, importStream, type StreamFormat } from "../../content/import-stream.js";
import type { TreeCounts } from "../../native/content.js";
import { parseDigest } from "../../oci/digest.js";
import type { Reading } from "../../splitfd/tar-assembler.js";
import { type CommandContext, defineCommand } from "../command.js";
import { printJson } from "../output.js";
import { type TreeArguments, treeOptions, withImageTree } from "./image-tree.js";

interface Arguments extends TreeArguments {
  directory: string;
  stream: StreamFormat | undefined;
  reading: Reading;
  content: string | undefined;
  "diff-id": string | undefined;
  whiteouts: "keep" | "overlay";
  durable: boolean;
  json: boolean;
}

/** `ocifs import`: a directory from an image in the cache, or from a stream of a layer; whole or not at all. */
export const importCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    treeOptions(yargs)
      .positional("directory", { type: "string", demandOption: true, describe: "What is made; it must not exist" })
      .option("stream", {
        choices: ["tar", "splitfdstream", "splitdirfdstream"] as const,
        describe: "IMAGE is a file with a layer's stream, or - for standard input",
      })
      .option("reading", {
        choices: ["tar-preserving", "header-then-content"] as const,
        default: "tar-preserving" as const,
        describe: "How a splitfdstream's chunks are meant",
      })
      .option("content", {
        type: "string",
        requiresArg: true,
        describe: "Directory with the file contents that a stream names",
      })
      .option("diff-id", { type: "string", requiresArg: true, describe: "Digest that a stream's tar must have" })
      .option("whiteouts", {
        choices: ["keep", "overlay"] as const,
        default: "keep" as const,
        describe: "Whiteouts of a stream: as they are, or in overlayfs' form",
      })
      .option("durable", {
        type: "boolean",
        default: false,
        describe: "Flush to the disk before the directory gets its name",
      })
      .option("json", { type: "boolean", default: false, describe: "Print one JSON document" }),
  run: async (args, context) => {
    await using destination = await Destination.create(args.directory);
    const counts = await (args.stream === undefined
      ? fromCache(args, context, destination)
      : fromStream(args, args.stream, context, destination));
    await destination.commit(args.durable);
    if (args.json) printJson(context.stdout, { directory: resolve(args.directory), ...counts });
    if (counts.skipped > 0) {
      context.stderr.write(
        `ocifs: ${counts.skipped} owners and extended attributes were left out, which takes root to set\n`,
      );
    }
  },
});

async function fromCache(args: Arguments, context: CommandContext, destination: Destination): Promise<TreeCounts> {
  let counts: TreeCounts | undefined;
  await withImageTree(args, context, async (tree, image, cacheDir) => {
    await using cache = await CacheDirectory.open(cacheDir);
    await using cleanup = new Cleanup();
    const stores = await openStores(image.layers, cache.room, cleanup, context.signal);
    const [store] = stores;
    const [layer] = image.layers;
    const alone = args.layer !== undefined || args.tarindex !== undefined;
    if (alone && store && layer) {
      counts = await importLayer(layer, store, destination, args.whiteouts, context.signal);
      return;
    }
    counts = await importTree({ tree: tree.image, layers: image.layers }, stores, destination, context.signal);
  });
  if (!counts) throw new OcifsError("internal", "import: the image was not opened");
  return counts;
}

async function fromStream(
  args: Arguments,
  format: StreamFormat,
  context: CommandContext,
  destination: Destination,
): Promise<TreeCounts> {
  if (args["diff-id"] === undefined) {
    throw new OcifsError("usage", "--stream: nothing says which tar it is; give its digest with --diff-id");
  }
  await using content = args.content === undefined ? undefined : await ContentDirectory.open(resolve(args.content));
  const stream =
    args.image === "-" ? toBytes(context.stdin) : createReadStream(resolve(args.image), { highWaterMark: 256 << 10 });
  return await importStream(
    {
      events: decodeStream(stream, format),
      reading: args.reading,
      diffId: parseDigest(args["diff-id"]),
      whiteouts: args.whiteouts,
      ...(content === undefined ? {} : { directories: [content.fd], filesDirectory: content.fd }),
      signal: context.signal,
    },
    destination,
  );
}

async function* toBytes(input: CommandContext["stdin"]): AsyncGenerator<Uint8Array> {
  for await (const chunk of input) yield Buffer.from(chunk);
}
