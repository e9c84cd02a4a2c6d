import { messageOf, OcifsError } from "../../base/errors.js";
import { callIfAlive, daemonSockets } from "../../daemon/control.js";
import { daemonProgram } from "../../daemon/keeper.js";
import { replaceDaemon } from "../../daemon/replace.js";
import { runtimeDirectory } from "../../daemon/runtime-directory.js";
import type { DaemonStatus } from "../../daemon/status.js";
import { defineCommand, jsonOption } from "../command.js";
import { printJson } from "../output.js";

/** `ocifs upgrade`: the version that this command is of goes on with all mounts of this user. */
export const upgradeCommand = defineCommand<{ json: boolean }>({
  builder: (yargs) => jsonOption(yargs),
  run: async (args, { stdout, stderr, signal }) => {
    const daemons: { readonly before: DaemonStatus; readonly after: DaemonStatus }[] = [];
    const failures: string[] = [];
    // One after the other: each start of Node takes a processor for a while.
    for (const socket of await daemonSockets(runtimeDirectory())) {
      try {
        const found = await callIfAlive(socket, "status");
        if (found === undefined) continue;
        const before = found.result as DaemonStatus;
        const after = await replaceDaemon(socket, before, [...daemonProgram(), ...before.program.slice(2)], signal);
        daemons.push({ before, after });
        if (!args.json) {
          const mounts = after.mounts.map(({ mountpoint }) => mountpoint).join(", ");
          stdout.write(`daemon ${before.pid} (${before.version}) is now ${after.pid} (${after.version}): ${mounts}\n`);
        }
      } catch (error) {
        failures.push(messageOf(error));
      }
    }
    if (args.json) printJson(stdout, { daemons: daemons.map(({ before, after }) => ({ before, after })) });
    else if (daemons.length === 0 && failures.length === 0) stderr.write("no daemons\n");
    if (failures.length > 0) throw new OcifsError("io", failures.join("; "));
  },
});
