import { removeBundle } from "../../bundle/remove.js";
import { defineCommand } from "../command.js";

/** `ocifs unbundle`: the end of a bundle. */
export const unbundleCommand = defineCommand<{ dir: string }>({
  builder: (yargs) =>
    yargs.positional("dir", { type: "string", demandOption: true, describe: "What ocifs bundle made" }),
  run: async (args, { stderr }) => {
    const left = await removeBundle(args.dir);
    if (left.length > 0)
      stderr.write(`ocifs: ${args.dir}: left there, not made by ocifs: ${[...left].sort().join(", ")}\n`);
  },
});
