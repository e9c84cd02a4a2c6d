import { resolve } from "node:path";
import { CacheDirectory } from "../../cache/cache-directory.js";
import { OpenSource } from "../../image/open-source.js";
import { type CreatedIndex, createLayerIndex } from "../../index/create.js";
import { defineCommand, jsonOption, type RegistryArguments, registryOptions } from "../command.js";
import { Progress, printJson, type TextSink } from "../output.js";
import { formatSize, parseSizeBytes } from "../units.js";
import { toLayerNumber, toSourceOptions } from "./source-arguments.js";

interface Arguments extends RegistryArguments {
  image: string;
  output: string | undefined;
  layer: number | undefined;
  span: string | undefined;
  whiteouts: "keep" | "overlay";
  json: boolean;
}

/** `ocifs index create`: reads each layer once and writes its tarindex, zinfo and JSON. */
export const indexCreateCommand = defineCommand<Arguments>({
  command: "index create <image>",
  describe: "Build the indexes of an image's layers: tarindex, zinfo and JSON each",
  builder: (yargs) =>
    jsonOption(registryOptions(yargs))
      .positional("image", { type: "string", demandOption: true, describe: "REFERENCE, oci:DIR[:TAG] or file:PATH" })
      .option("output", {
        alias: "o",
        type: "string",
        requiresArg: true,
        describe: "Directory for the files; default: the cache",
      })
      .option("layer", {
        type: "number",
        requiresArg: true,
        describe: "Which layer, counted from 0; default: all",
      })
      .option("span", {
        type: "string",
        requiresArg: true,
        describe: "Distance of checkpoints, such as 1M (default) or 256K",
      })
      .option("whiteouts", {
        choices: ["keep", "overlay"] as const,
        default: "keep" as const,
        describe: "keep .wh. files as they are, or turn them into overlayfs' devices and attributes",
      }),
  run: async (args, context) => {
    const options = await toSourceOptions(args.image, args, context);
    const { signal, stdout, stderr } = context;
    await using source = await OpenSource.open(options, signal);
    const { layer } = toLayerNumber(args.layer);
    const whole = layer === undefined && source.layerCount > 1;
    const numbers = whole ? Array.from({ length: source.layerCount }, (_, i) => i) : [layer];
    const directory = args.output === undefined ? undefined : resolve(args.output);
    await using cache = await CacheDirectory.open(options.cacheDir);
    const made = new Map<string, CreatedIndex>();
    for (const number of numbers) {
      const chosen = await source.openLayer(number === undefined ? {} : { layer: number });
      const { digest } = chosen.blob;
      // An image may have a layer twice.
      if (made.has(digest)) continue;
      if (whole) stderr.write(`layer ${chosen.layerNumber} of ${source.layerCount}: ${digest}\n`);
      const expectedDiffId = await source.fetchDiffId(chosen.layerNumber, signal);
      using progress = new Progress(`index of ${digest.slice(0, 19)}`, {
        totalBytes: chosen.blob.sizeBytes,
        sink: stderr,
      });
      const created = await createLayerIndex({
        source: chosen.blob,
        output: { directory: directory ?? cache.indexPath(digest) },
        whiteouts: args.whiteouts,
        onProgress: ({ blobBytes }) => progress.update(blobBytes),
        signal,
        ...(expectedDiffId === undefined ? {} : { expectedDiffId }),
        ...(chosen.mediaType === undefined ? {} : { mediaType: chosen.mediaType }),
        ...(args.span === undefined ? {} : { spanSizeBytes: parseSizeBytes(args.span, "--span") }),
      });
      progress.finish();
      made.set(digest, created);
      if (!args.json) printIndex(stdout, created);
    }
    if (!args.json) return;
    const all = [...made.values()].map(describeIndex);
    printJson(stdout, whole ? { layers: all } : all[0]);
  },
});

function describeIndex({ manifest, tarindexPath, zinfoPath, jsonPath }: CreatedIndex): Record<string, unknown> {
  return { tarindex: tarindexPath, zinfo: zinfoPath ?? null, json: jsonPath, manifest };
}

function printIndex(stdout: TextSink, { manifest, tarindexPath, zinfoPath, jsonPath }: CreatedIndex): void {
  stdout.write(`${tarindexPath}  ${formatSize(manifest.tarindex.sizeBytes)}, ${manifest.tar.entryCount} entries\n`);
  if (zinfoPath !== undefined && manifest.zinfo) {
    stdout.write(`${zinfoPath}  ${formatSize(manifest.zinfo.sizeBytes)}, ${manifest.spans.digests.length} spans\n`);
  }
  stdout.write(`${jsonPath}\n`);
}
