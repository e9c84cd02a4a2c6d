import type { RegisteredCommand } from "../command.js";
import { catCommand } from "./cat.js";
import { indexCreateCommand } from "./index-create.js";
import { lsCommand } from "./ls.js";
import { statCommand } from "./stat.js";
import { statusCommand } from "./status.js";

/** Every subcommand of `ocifs`, in the order in which help lists them. */
export const commands: readonly RegisteredCommand[] = [
  indexCreateCommand,
  lsCommand,
  catCommand,
  statCommand,
  statusCommand,
];
