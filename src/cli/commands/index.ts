import type { RegisteredCommand } from "../command.js";

/** Every subcommand of `ocifs`, in the order in which help lists them. */
export const commands: readonly RegisteredCommand[] = [];
