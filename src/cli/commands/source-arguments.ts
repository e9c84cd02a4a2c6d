import { resolve } from "node:path";
import { OcifsError } from "../../base/errors.js";
import { defaultCacheDirectory } from "../../cache/default-directory.js";
import type { SourceOptions } from "../../image/open-source.js";
import { type CommandContext, type RegistryArguments, readCredentials } from "../command.js";

/** The shared arguments of subcommands that read an image, as the image layer takes them. */
export async function toSourceOptions(
  image: string,
  args: RegistryArguments,
  context: CommandContext,
): Promise<SourceOptions & { cacheDir: string }> {
  const credentials = await readCredentials(args, context);
  return {
    source: image,
    insecure: args.insecure,
    cacheDir: resolve(args.cachedir ?? defaultCacheDirectory()),
    ...(args["hosts-dir"] === undefined ? {} : { hostsDir: resolve(args["hosts-dir"]) }),
    ...(args.platform === undefined ? {} : { platform: args.platform }),
    ...(credentials ?? {}),
  };
}

/** A layer number from the command line. */
export function toLayerNumber(value: number | undefined): { layer?: number } {
  if (value === undefined) return {};
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new OcifsError("usage", `--layer ${value}: want a number from 0, the base layer`);
  }
  return { layer: value };
}
