import { spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { OcifsError } from "../../base/errors.js";
import { runSharedDaemon, type SharedDaemonOptions } from "../../daemon/daemon.js";
import { daemonProgram, keeperProgram, RESTART_EXIT_CODE, SHARED } from "../../daemon/keeper.js";
import { readKeptMounts } from "../../daemon/kept-mounts.js";
import { parseMetricsAddress } from "../../daemon/metrics/address.js";
import { hasServiceManager, takeKeptDescriptors } from "../../native/notify.js";
import { defineCommand } from "../command.js";
import { parseLog } from "../mount-options.js";

interface Arguments {
  log: string;
  metrics: string | undefined;
}

/** `ocifs daemon`: serves all mounts of this user until SIGINT or SIGTERM; docs/SYSTEMD.md. */
export const daemonCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    yargs
      .option("log", {
        type: "string",
        requiresArg: true,
        default: "info",
        describe: "How much to log, and a file to append to in place of standard error: LEVEL[:PATH]",
      })
      .option("metrics", {
        type: "string",
        requiresArg: true,
        describe: "Offer Prometheus metrics at this loopback address: 127.0.0.1:PORT",
      }),
  run: async (args, { signal }) => {
    const { level, path } = parseLog(args.log, "--log");
    const options: SharedDaemonOptions = {
      log: path === undefined ? { level } : { level, path: resolve(path) },
      ...(args.metrics === undefined ? {} : { metrics: parseMetricsAddress(args.metrics, "--metrics") }),
    };
    if (!hasServiceManager()) return await runUnderKeeper(options, signal);
    const end = await runSharedDaemon(options, readKeptMounts(takeKeptDescriptors()));
    // Everything is closed; the manager starts it again.
    if (end === "upgrade") process.exit(RESTART_EXIT_CODE);
  },
});

/** Where no service manager starts the daemon again when it dies, the keeper does. */
async function runUnderKeeper(options: SharedDaemonOptions, signal: AbortSignal): Promise<void> {
  const child = spawn(keeperProgram(), [...daemonProgram(), SHARED, JSON.stringify(options)], {
    cwd: "/",
    stdio: ["ignore", "inherit", "inherit"],
  });
  const stop = () => child.kill("SIGTERM");
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  const [code, by] = (await once(child, "exit")) as [number | null, string | null];
  if (code !== 0) throw new OcifsError("io", `daemon: it ended with ${by ?? `exit code ${code}`}; its log says why`);
}
