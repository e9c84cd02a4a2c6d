import { CacheDirectory } from "../../cache/cache-directory.js";
import { defineCommand, type RegistryArguments, registryOptions } from "../command.js";
import { toSourceOptions } from "./source-arguments.js";
import { warningsTo } from "./warnings.js";

interface Arguments extends RegistryArguments {
  image: string;
  address: string;
  namespace: string;
  snapshotter: string;
}

/** `ocifs pull`: an image for containerd, through the snapshotter; docs/CONTAINERD.md. */
export const pullCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    registryOptions(yargs)
      .positional("image", { type: "string", demandOption: true, describe: "Image in a registry" })
      .option("address", {
        type: "string",
        requiresArg: true,
        default: "/run/containerd/containerd.sock",
        describe: "containerd's socket",
      })
      .option("namespace", {
        type: "string",
        requiresArg: true,
        default: "default",
        describe: "containerd's namespace",
      })
      .option("snapshotter", {
        type: "string",
        requiresArg: true,
        default: "ocifs",
        describe: "Its name in containerd",
      }),
  run: async (args, context) => {
    const { pullLazily } = await import("../../snapshotter/pull.js");
    const { cacheDir, ...source } = await toSourceOptions(args.image, args, context);
    await using cache = await CacheDirectory.open(cacheDir);
    const { address, namespace, snapshotter } = args;
    const kept = { cache, log: warningsTo(context.stderr) };
    const name = await pullLazily({ address, namespace, snapshotter, source, kept }, context.signal);
    context.stdout.write(`${name}\n`);
  },
});
