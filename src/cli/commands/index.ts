import { type ListedCommand, listCommand, listGroup } from "../command.js";

/**
 * Every subcommand of `ocifs`, in the order in which help lists them. A command's module is loaded when its word is on the command line: loading all
 * of them takes longer than most commands run.
 */
export const commands: readonly ListedCommand[] = [
  listCommand(
    "index create <image>",
    "Build the indexes of an image's layers: tarindex, zinfo and JSON each",
    async () => (await import("./index-create.js")).indexCreateCommand,
  ),
  listCommand(
    "ls <image> [path]",
    "List a directory of an image without mounting it",
    async () => (await import("./ls.js")).lsCommand,
  ),
  listCommand(
    "cat <image> <path>",
    "Write a file of an image to standard output without mounting it",
    async () => (await import("./cat.js")).catCommand,
  ),
  listCommand(
    "stat <image> <path>",
    "Show the attributes of one entry of an image without mounting it",
    async () => (await import("./stat.js")).statCommand,
  ),
  listCommand(
    "export <image>",
    "Write a layer, or an image's tree, for other tools",
    async () => (await import("./export.js")).exportCommand,
  ),
  listCommand(
    "import <image> <directory>",
    "Unpack an image, or a layer's stream, sharing file contents with the cache",
    async () => (await import("./import.js")).importCommand,
  ),
  listCommand(
    "serve",
    "Offer the cache's layers to other programs on a Unix socket",
    async () => (await import("./serve.js")).serveCommand,
  ),
  listCommand(
    "daemon",
    "Serve all mounts of this machine in one process; mount.ocifs hands them over",
    async () => (await import("./daemon.js")).daemonCommand,
  ),
  listCommand(
    "status",
    "Show mounts: driver, bytes fetched, cache, hit ratio, errors",
    async () => (await import("./status.js")).statusCommand,
  ),
  listCommand(
    "metrics",
    "Print metrics of all daemons in Prometheus' text format",
    async () => (await import("./metrics.js")).metricsCommand,
  ),
  listCommand(
    "bundle <image> <dir>",
    "Make an OCI runtime bundle of an image for runc or crun, its root file system mounted lazily",
    async () => (await import("./bundle.js")).bundleCommand,
  ),
  listCommand(
    "unbundle <dir>",
    "Unmount a bundle and remove it, what containers wrote in it included",
    async () => (await import("./unbundle.js")).unbundleCommand,
  ),
  listCommand(
    "proxy",
    "Serve registries to other clients through the cache, read-only",
    async () => (await import("./proxy.js")).proxyCommand,
  ),
  listCommand(
    "snapshotter",
    "Serve containerd as a proxy snapshotter, so that images are mounted instead of pulled",
    async () => (await import("./snapshotter.js")).snapshotterCommand,
  ),
  listCommand(
    "pull <image>",
    "Make an image known to containerd without downloading its layers; needs ocifs snapshotter",
    async () => (await import("./pull.js")).pullCommand,
  ),
  listGroup("cache", "What fetched data is kept: du, ls, verify, drop, gc, pin, unpin", [
    listCommand(
      "du",
      "Show how much the cache holds: fetched, decoded, indexes, images",
      async () => (await import("./cache-du.js")).cacheDuCommand,
    ),
    listCommand(
      "ls",
      "List the cache's blobs: sizes, what is there, use, images",
      async () => (await import("./cache-ls.js")).cacheLsCommand,
    ),
    listCommand(
      "verify [what..]",
      "Check the cache's content against its digests",
      async () => (await import("./cache-verify.js")).cacheVerifyCommand,
    ),
    listCommand(
      "drop [what..]",
      "Remove blobs or images from the cache; refuses what is in use",
      async () => (await import("./cache-drop.js")).cacheDropCommand,
    ),
    listCommand(
      "gc",
      "Remove leftovers and blobs without index or image; with --size evict down to it",
      async () => (await import("./cache-gc.js")).cacheGcCommand,
    ),
    listCommand(
      "pin <what..>",
      "Keep blobs, or an image's, from eviction",
      async () => (await import("./cache-pin.js")).cachePinCommand,
    ),
    listCommand(
      "unpin <what..>",
      "Let them be evicted again",
      async () => (await import("./cache-pin.js")).cacheUnpinCommand,
    ),
  ]),
  listCommand(
    "upgrade",
    "Let this version of ocifs go on with the mounts of running daemons",
    async () => (await import("./upgrade.js")).upgradeCommand,
  ),
];
