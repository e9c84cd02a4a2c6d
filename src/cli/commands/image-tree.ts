import { resolve } from "node:path";
import type { Argv } from "yargs";
import { ErofsTree } from "../../erofs/reader.js";
import { type MountableImage, openMountableImage } from "../../image/mountable-image.js";
import { BuildDisplay } from "../build-display.js";
import { type CommandContext, type RegistryArguments, registryOptions } from "../command.js";
import { toLayerNumber, toSourceOptions } from "./source-arguments.js";
import { warningsTo } from "./warnings.js";

/** Arguments of the subcommands that look into an image without mounting it. */
export interface TreeArguments extends RegistryArguments {
  image: string;
  path: string;
  layer: number | undefined;
  tarindex: string | undefined;
  zinfo: string | undefined;
}

export function treeOptions<T>(yargs: Argv<T>): Argv<T & TreeArguments> {
  return registryOptions(yargs)
    .positional("image", { type: "string", demandOption: true, describe: "REFERENCE, oci:DIR[:TAG] or file:PATH" })
    .option("layer", {
      type: "number",
      requiresArg: true,
      describe: "Which layer, counted from 0; default: the only one",
    })
    .option("tarindex", { type: "string", requiresArg: true, describe: "Index file; default: from the cache" })
    .option("zinfo", {
      type: "string",
      requiresArg: true,
      describe: "Checkpoint file; default: from the cache",
    }) as unknown as Argv<T & TreeArguments>;
}

/** Opens an image as a mount would, and hands its tree to `use`, with the cache it is in. Problems of the cache are told on standard error. */
export async function withImageTree(
  args: TreeArguments,
  context: CommandContext,
  use: (tree: ErofsTree, image: MountableImage, cacheDir: string) => Promise<void>,
): Promise<void> {
  const source = await toSourceOptions(args.image, args, context);
  using display = new BuildDisplay("ocifs", { sink: context.stderr });
  await using image = await openMountableImage(
    {
      ...source,
      ...toLayerNumber(args.layer),
      ...(args.tarindex === undefined ? {} : { tarindex: resolve(args.tarindex) }),
      ...(args.zinfo === undefined ? {} : { zinfo: resolve(args.zinfo) }),
      verify: "blob",
      onBuildProgress: (progress) => display.update(progress),
    },
    warningsTo(context.stderr),
    context.signal,
  );
  display.finish();
  await use(ErofsTree.of(image.tree), image, source.cacheDir);
}

/** A path as it was typed, as bytes below the root. */
export function pathBytes(path: string): Uint8Array {
  return Buffer.from(path.startsWith("/") ? path : `/${path}`);
}
