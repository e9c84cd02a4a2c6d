import { resolve } from "node:path";
import { OcifsError } from "../../base/errors.js";
import { openLog } from "../../base/log.js";
import { defaultCacheDirectory } from "../../cache/default-directory.js";
import { defineCommand } from "../command.js";
import { defaultMountOptions } from "../mount-options.js";
import { noMountFlags } from "../standard-words.js";
import { parseSizeBytes } from "../units.js";

const levels = ["error", "warn", "info", "debug"] as const;
const prefetchModes = ["none", "idle", "all"] as const;

interface Arguments {
  address: string;
  root: string;
  "insecure-registry": string[];
  cachedir: string | undefined;
  cachesize: string | undefined;
  prefetch: (typeof prefetchModes)[number];
  "log-level": (typeof levels)[number];
}

/** `ocifs snapshotter`: serves containerd until SIGTERM or SIGINT; docs/CONTAINERD.md. */
export const snapshotterCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    yargs
      .option("address", {
        type: "string",
        requiresArg: true,
        default: "/run/ocifs-snapshotter/snapshotter.sock",
        describe: "Unix socket for containerd",
      })
      .option("root", {
        type: "string",
        requiresArg: true,
        default: "/var/lib/ocifs-snapshotter",
        describe: "Where snapshots are kept",
      })
      .option("insecure-registry", {
        type: "string",
        array: true,
        requiresArg: true,
        default: [],
        describe: "Registry (host:port) that speaks plain HTTP; repeatable",
      })
      .option("cachedir", { type: "string", requiresArg: true, describe: "Where fetched data is kept" })
      .option("cachesize", { type: "string", requiresArg: true, describe: "Most bytes of the cache, such as 20G" })
      .option("prefetch", { choices: prefetchModes, default: "none", describe: "Fetch what was not asked for, too" })
      .option("log-level", {
        choices: levels,
        default: "info",
        describe: "How much is logged, to standard error",
      }) as never,
  run: async (args, { stderr, signal }) => {
    if (process.geteuid?.() !== 0)
      throw new OcifsError("usage", "snapshotter: it mounts for containerd; run it as root");
    const insecure = new Set(args["insecure-registry"].map((host) => host.toLowerCase()));
    // The library is most of what this command loads.
    const { serveSnapshotter } = await import("../../snapshotter/server.js");
    const address = resolve(args.address);
    const { driver, onError, timeoutMs, verify, profile } = defaultMountOptions;
    await serveSnapshotter(
      {
        root: resolve(args.root),
        address,
        mount: {
          driver,
          onError,
          timeoutMs,
          verify,
          profile,
          cacheDir: resolve(args.cachedir ?? defaultCacheDirectory()),
          ...(args.cachesize === undefined ? {} : { cacheSizeBytes: parseSizeBytes(args.cachesize, "--cachesize") }),
          prefetch: args.prefetch,
          allowOther: false,
          flags: noMountFlags,
          securityOptions: [],
          log: { level: args["log-level"] },
        },
        isInsecure: (registry) => insecure.has(registry),
        log: openLog(args["log-level"], 2),
        signal,
      },
      () => void stderr.write(`ocifs snapshotter: serving at ${address}\n`),
    );
  },
});
