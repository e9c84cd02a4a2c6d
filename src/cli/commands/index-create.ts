import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { mapConcurrently } from "../../base/concurrency.js";
import { isOcifsError, OcifsError } from "../../base/errors.js";
import { CacheDirectory } from "../../cache/cache-directory.js";
import { OpenSource, type SourceLayer } from "../../image/open-source.js";
import { type CreatedIndex, createLayerIndex } from "../../index/create.js";
import { indexPathsIn } from "../../index/files.js";
import { loadIndex } from "../../index/load.js";
import type { Digest } from "../../oci/digest.js";
import { defineCommand, jsonOption, type RegistryArguments, registryOptions } from "../command.js";
import { Progress, printJson, type TextSink } from "../output.js";
import { formatSize, parseSizeBytes } from "../units.js";
import { toLayerNumber, toSourceOptions } from "./source-arguments.js";
import { warningsTo } from "./warnings.js";

/** More layers at once are hardly faster, since one thread walks all tars, and each holds the names of a layer in memory. */
const LAYERS_AT_ONCE = Math.min(4, availableParallelism());

interface Arguments extends RegistryArguments {
  image: string;
  output: string | undefined;
  layer: number | undefined;
  span: string | undefined;
  whiteouts: "keep" | "overlay";
  force: boolean;
  json: boolean;
}

/** An index as the command reports it. */
type LayerResult = Pick<CreatedIndex, "manifest" | "tarindexPath" | "zinfoPath" | "jsonPath"> & {
  /** False when a good one was there. */
  readonly created: boolean;
};

/** `ocifs index create`: reads each layer once and writes its tarindex, zinfo and JSON. */
export const indexCreateCommand = defineCommand<Arguments>({
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
      })
      .option("force", {
        type: "boolean",
        default: false,
        describe: "Make indexes again that are there and good",
      }),
  run: async (args, context) => {
    const options = await toSourceOptions(args.image, args, context);
    const { signal, stdout, stderr } = context;
    const { layer } = toLayerNumber(args.layer);
    const spanSizeBytes = args.span === undefined ? undefined : parseSizeBytes(args.span, "--span");
    await using cache = await CacheDirectory.open(options.cacheDir);
    await using source = await OpenSource.open(options, signal, { cache, log: warningsTo(stderr) });
    const whole = layer === undefined && source.layerCount > 1;
    const layers = whole
      ? await distinctLayers(source)
      : [await source.openLayer(layer === undefined ? {} : { layer })];
    const output = args.output === undefined ? undefined : resolve(args.output);
    const directoryOf = (digest: Digest) => output ?? cache.indexPath(digest);
    const nameOf = ({ blob, layerNumber }: SourceLayer) =>
      whole ? `layer ${layerNumber} of ${source.layerCount}: ${blob.digest}` : `layer ${blob.digest}`;

    const results = new Map<Digest, LayerResult>();
    const missing: SourceLayer[] = [];
    for (const each of layers) {
      const { digest } = each.blob;
      const wanted = {
        whiteouts: args.whiteouts,
        spanSizeBytes,
        diffId: await source.fetchDiffId(each.layerNumber, signal),
      };
      const found = args.force ? undefined : await findIndex(directoryOf(digest), digest, wanted, signal);
      if (found === undefined) {
        missing.push(each);
        continue;
      }
      stderr.write(`${nameOf(each)}: its index is there; --force makes it again\n`);
      results.set(digest, found);
    }

    using progress = new TotalProgress(missing, stderr);
    const create = async (each: SourceLayer, stop: AbortSignal): Promise<void> => {
      const { digest } = each.blob;
      // Lines would tear up the bar of a terminal.
      if (whole && stderr.isTTY !== true) stderr.write(`${nameOf(each)}\n`);
      const expectedDiffId = await source.fetchDiffId(each.layerNumber, stop);
      try {
        const created = await createLayerIndex({
          source: each.blob,
          output: { directory: directoryOf(digest), shared: output === undefined },
          ...(output === undefined ? { room: cache.room } : {}),
          whiteouts: args.whiteouts,
          onProgress: ({ blobBytes }) => progress.update(digest, blobBytes),
          signal: stop,
          ...(expectedDiffId === undefined ? {} : { expectedDiffId }),
          ...(each.mediaType === undefined ? {} : { mediaType: each.mediaType }),
          ...(spanSizeBytes === undefined ? {} : { spanSizeBytes }),
        });
        results.set(digest, { ...created, created: true });
      } catch (error) {
        if (!whole || !isOcifsError(error)) throw error;
        throw new OcifsError(error.code, `${nameOf(each)}: ${error.message}`, { cause: error });
      }
    };
    await mapConcurrently(missing, LAYERS_AT_ONCE, create, signal);
    progress.finish();

    const inOrder = layers.flatMap(({ blob }) => results.get(blob.digest) ?? []);
    if (args.json) {
      const all = inOrder.map(describeIndex);
      printJson(stdout, whole ? { layers: all } : all[0]);
    } else for (const each of inOrder) printIndex(stdout, each);
  },
});

/** Lowest first; an image may have a layer twice. */
async function distinctLayers(source: OpenSource): Promise<SourceLayer[]> {
  const layers = new Map<Digest, SourceLayer>();
  for (let number = 0; number < source.layerCount; number++) {
    const layer = await source.openLayer({ layer: number });
    if (!layers.has(layer.blob.digest)) layers.set(layer.blob.digest, layer);
  }
  return [...layers.values()];
}

/** A complete and undamaged index of the blob as it is wanted; what is there and is not that is made again. */
async function findIndex(
  directory: string,
  blobDigest: Digest,
  wanted: {
    readonly whiteouts: "keep" | "overlay";
    readonly spanSizeBytes: number | undefined;
    readonly diffId: Digest | undefined;
  },
  signal: AbortSignal,
): Promise<LayerResult | undefined> {
  const { zinfoPath, ...others } = indexPathsIn(directory, blobDigest);
  for (const paths of [{ ...others, zinfoPath }, others]) {
    try {
      const { manifest } = await loadIndex({ ...paths, blobDigest, signal });
      if (manifest === undefined || manifest.whiteouts !== wanted.whiteouts) return undefined;
      if (wanted.spanSizeBytes !== undefined && manifest.spans.sizeBytes !== wanted.spanSizeBytes) return undefined;
      if (wanted.diffId !== undefined && manifest.tar.digest !== wanted.diffId) return undefined;
      return { ...paths, manifest, created: false };
    } catch (error) {
      if (signal.aborted || !isOcifsError(error)) throw error;
    }
  }
  return undefined;
}

/** One figure for layers that are read at the same time. */
class TotalProgress implements Disposable {
  readonly #done = new Map<Digest, number>();
  readonly #progress: Progress | undefined;

  constructor(layers: readonly SourceLayer[], sink: TextSink) {
    const [first] = layers;
    if (first === undefined) return;
    const label =
      layers.length === 1 ? `index of ${first.blob.digest.slice(0, 19)}` : `index of ${layers.length} layers`;
    const totalBytes = layers.reduce((sum, { blob }) => sum + blob.sizeBytes, 0);
    this.#progress = new Progress(label, { totalBytes, sink });
  }

  update(layer: Digest, bytes: number): void {
    this.#done.set(layer, bytes);
    let sum = 0;
    for (const each of this.#done.values()) sum += each;
    this.#progress?.update(sum);
  }

  finish(): void {
    this.#progress?.finish();
  }

  [Symbol.dispose](): void {
    this.#progress?.[Symbol.dispose]();
  }
}

function describeIndex({ manifest, tarindexPath, zinfoPath, jsonPath, created }: LayerResult): Record<string, unknown> {
  return { tarindex: tarindexPath, zinfo: zinfoPath ?? null, json: jsonPath, created, manifest };
}

function printIndex(stdout: TextSink, { manifest, tarindexPath, zinfoPath, jsonPath }: LayerResult): void {
  stdout.write(`${tarindexPath}  ${formatSize(manifest.tarindex.sizeBytes)}, ${manifest.tar.entryCount} entries\n`);
  if (zinfoPath !== undefined && manifest.zinfo) {
    stdout.write(`${zinfoPath}  ${formatSize(manifest.zinfo.sizeBytes)}, ${manifest.spans.digests.length} spans\n`);
  }
  stdout.write(`${jsonPath}\n`);
}
