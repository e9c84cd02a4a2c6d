import { realpath } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { messageOf, OcifsError } from "../../base/errors.js";
import { createBundle, prepareBundle } from "../../bundle/create.js";
import { launchDaemon } from "../../daemon/launch.js";
import { openMountableImage } from "../../image/mountable-image.js";
import { parseDigest } from "../../oci/digest.js";
import { parseImageSource } from "../../oci/image-source.js";
import { formatReference } from "../../oci/reference.js";
import { BuildDisplay } from "../build-display.js";
import { defineCommand, type RegistryArguments, registryOptions } from "../command.js";
import { toMountConfig } from "../mount-config.js";
import { parseMountCommand } from "../mount-grammar.js";
import { toSourceOptions } from "./source-arguments.js";
import { warningsTo } from "./warnings.js";

interface Arguments extends RegistryArguments {
  image: string;
  dir: string;
  "read-only": boolean;
  terminal: boolean;
  entrypoint: string | undefined;
  options: string | undefined;
  "--"?: string[];
}

/** `ocifs bundle`: an OCI runtime bundle on a lazy mount. */
export const bundleCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    registryOptions(yargs)
      // ARGs are the container's: text, whatever they look like.
      .parserConfiguration({ "populate--": true, "parse-numbers": false, "parse-positional-numbers": false })
      .usage("$0 bundle <image> <dir> [options] [-- ARG...]\n\nARGs take the place of the image's command.")
      .positional("image", { type: "string", demandOption: true, describe: "REFERENCE or oci:DIR[:TAG]" })
      .positional("dir", { type: "string", demandOption: true, describe: "A directory that is new or empty" })
      .option("read-only", { type: "boolean", default: false, describe: "No writable overlay on the image" })
      .option("terminal", { alias: "t", type: "boolean", default: false, describe: "Give the process a terminal" })
      .option("entrypoint", {
        type: "string",
        requiresArg: true,
        describe: "Program instead of the image's entrypoint and command; empty: ARGs alone",
      })
      .option("options", {
        alias: "o",
        type: "string",
        requiresArg: true,
        describe: "Options of the mount, as with mount.ocifs -o",
      }) as never,
  run: async (args, context) => {
    if (process.getuid?.() !== 0) throw new OcifsError("usage", "bundle: mounting for a container takes root");
    const source = await toSourceOptions(args.image, args, context);
    const directory = await absoluteDirectory(args.dir);
    const words = args.options === undefined ? [] : ["-o", args.options];
    const command = parseMountCommand([args.image, directory, ...words]);
    if (command.kind !== "mount") throw new OcifsError("usage", "--options: want options of a mount");
    if (command.request.remount || command.request.options.foreground) {
      throw new OcifsError("usage", "--options: remount and foreground make no sense for a bundle; leave them out");
    }
    const requested = await toMountConfig(command.request, directory);
    if (requested.layer !== undefined || requested.blob !== undefined || requested.tarindex !== undefined) {
      throw new OcifsError(
        "usage",
        "--options: a bundle is of a whole image; leave oci.layer, oci.blob and oci.tarindex out",
      );
    }
    const config = {
      ...requested,
      ...source,
      source: requested.source,
      insecure: requested.insecure || source.insecure,
      cacheDir: args.cachedir === undefined ? requested.cacheDir : source.cacheDir,
    };
    using display = new BuildDisplay("ocifs", { sink: context.stderr });
    const image = await openMountableImage(
      { ...config, onBuildProgress: (progress) => display.update(progress) },
      warningsTo(context.stderr),
      context.signal,
    );
    await using _closed = image;
    const prepared = await prepareBundle(
      image,
      {
        args: args["--"] ?? [],
        ...(args.entrypoint === undefined ? {} : { entrypoint: args.entrypoint === "" ? [] : [args.entrypoint] }),
        readOnly: args["read-only"],
        terminal: args.terminal,
      },
      context.signal,
    );
    display.finish();
    const mountImage = async (mountpoint: string) => {
      // Its tag may mean something else by now; the config is this image's.
      const pinned = pinSource(config.source, image.manifestDigest);
      const started = await launchDaemon({ ...config, source: pinned, mountpoint }, context.signal, () => undefined);
      for (const warning of started.warnings) context.stderr.write(`ocifs: warning: ${warning}\n`);
    };
    await createBundle(directory, prepared, mountImage, context.signal);
  },
});

/** The directory itself need not be there; what leads to it must. */
async function absoluteDirectory(path: string): Promise<string> {
  const absolute = resolve(path);
  try {
    return join(await realpath(dirname(absolute)), basename(absolute));
  } catch (cause) {
    throw new OcifsError("usage", `bundle ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** A layout's directory changes when its owner changes it; a registry's tag at any time. */
function pinSource(source: string, digest: string | undefined): string {
  const parsed = parseImageSource(source);
  if (digest === undefined || parsed.kind !== "registry") return source;
  return formatReference({ ...parsed.reference, digest: parseDigest(digest) });
}
