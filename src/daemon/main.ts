import { closeSync, writeSync } from "node:fs";
import { text } from "node:stream/consumers";
import { messageOf, OcifsError } from "../base/errors.js";
import { runMount } from "./daemon.js";
import type { MountConfig, Readiness } from "./mount-config.js";

/** The descriptor on which the mount helper waits; see launch.ts. */
const READINESS_FD = 3;

function say(readiness: Readiness): void {
  try {
    writeSync(READINESS_FD, `${JSON.stringify(readiness)}\n`);
    closeSync(READINESS_FD);
  } catch (error) {
    // The helper was killed. The mount is none the worse for it.
    if ((error as NodeJS.ErrnoException).code !== "EPIPE") throw error;
  }
}

process.title = "ocifs";
const config = JSON.parse(await text(process.stdin)) as MountConfig;
let ready = false;
try {
  await runMount(config, (details) => {
    ready = true;
    say({ ok: true, pid: process.pid, ...details });
  });
  process.exit(0);
} catch (error) {
  const code = error instanceof OcifsError ? error.code : "internal";
  if (!ready) say({ ok: false, code, message: messageOf(error) });
  process.exit(1);
}
