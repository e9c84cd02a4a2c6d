import { callAllDaemons } from "../../daemon/control.js";
import { formatMetrics } from "../../daemon/metrics/format.js";
import { runtimeDirectory } from "../../daemon/runtime-directory.js";
import type { DaemonStatus } from "../../daemon/status.js";
import { treeUsage } from "../../native/sparse.js";
import { defineCommand } from "../command.js";
import { throwFailures } from "./status.js";

/** `ocifs metrics`: what all daemons of this user count, in Prometheus' text format. */
export const metricsCommand = defineCommand({
  builder: (yargs) => yargs,
  run: async (_args, { stdout }) => {
    const { answers, failures } = await callAllDaemons(runtimeDirectory(), "status");
    stdout.write(await formatMetrics(answers as DaemonStatus[], treeUsage));
    throwFailures(failures);
  },
});
