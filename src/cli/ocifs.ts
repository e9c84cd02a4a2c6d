#!/usr/bin/env node
import { once } from "node:events";
import { commands } from "./commands/index.js";
import { commandExitCodes } from "./exit-codes.js";
import { runOcifs } from "./frame.js";

const interruption = new AbortController();
// Once each: a second signal ends a process that does not come to its end by itself.
process.once("SIGINT", () => interruption.abort());
process.once("SIGTERM", () => interruption.abort());

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(commandExitCodes.brokenPipe);
  throw error;
});

process.exitCode = await runOcifs(process.argv.slice(2), commands, {
  stdout: process.stdout,
  writeBytes: async (bytes) => {
    if (!process.stdout.write(bytes)) await once(process.stdout, "drain");
  },
  stderr: process.stderr,
  stdin: process.stdin,
  signal: interruption.signal,
});
