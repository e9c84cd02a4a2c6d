import { resolve } from "node:path";
import { CacheDirectory } from "../../cache/cache-directory.js";
import { OpenSource } from "../../image/open-source.js";
import { createLayerIndex } from "../../index/create.js";
import { defineCommand, jsonOption, type RegistryArguments, registryOptions } from "../command.js";
import { Progress, printJson } from "../output.js";
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

/** `ocifs index create`: reads one layer once and writes its tarindex, zinfo and JSON. */
export const indexCreateCommand = defineCommand<Arguments>({
  command: "index create <image>",
  describe: "Build the index of a layer: tarindex, zinfo and JSON",
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
        describe: "Which layer, counted from 0; default: the only one",
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
    const layer = await source.openLayer(toLayerNumber(args.layer));
    if (source.layerCount > 1) {
      stderr.write(`layer ${layer.layerNumber} of ${source.layerCount}; each layer has an index of its own\n`);
    }
    const expectedDiffId = await source.fetchDiffId(layer.layerNumber, signal);
    const directory = args.output ?? (await CacheDirectory.open(options.cacheDir)).indexPath(layer.blob.digest);
    using progress = new Progress(`index of ${layer.blob.digest.slice(0, 19)}`, {
      totalBytes: layer.blob.sizeBytes,
      sink: stderr,
    });
    const created = await createLayerIndex({
      source: layer.blob,
      output: { directory: resolve(directory) },
      whiteouts: args.whiteouts,
      onProgress: ({ blobBytes }) => progress.update(blobBytes),
      signal,
      ...(expectedDiffId === undefined ? {} : { expectedDiffId }),
      ...(layer.mediaType === undefined ? {} : { mediaType: layer.mediaType }),
      ...(args.span === undefined ? {} : { spanSizeBytes: parseSizeBytes(args.span, "--span") }),
    });
    progress.finish();
    const { manifest, tarindexPath, zinfoPath, jsonPath } = created;
    if (args.json) {
      printJson(stdout, { tarindex: tarindexPath, zinfo: zinfoPath ?? null, json: jsonPath, manifest });
      return;
    }
    stdout.write(`${tarindexPath}  ${formatSize(manifest.tarindex.sizeBytes)}, ${manifest.tar.entryCount} entries\n`);
    if (zinfoPath !== undefined && manifest.zinfo) {
      stdout.write(`${zinfoPath}  ${formatSize(manifest.zinfo.sizeBytes)}, ${manifest.spans.digests.length} spans\n`);
    }
    stdout.write(`${jsonPath}\n`);
  },
});
