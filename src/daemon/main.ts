import { closeSync, writeSync } from "node:fs";
import { messageOf, OcifsError } from "../base/errors.js";
import { type ReadyDetails, runMount } from "./daemon.js";
import type { Readiness } from "./mount-config.js";
import { readOrders } from "./orders.js";

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
const orders = readOrders(process.stdin);
const config = await orders.config;
let ready = false;
try {
  const onReady = (details: ReadyDetails) => {
    ready = true;
    say({ ok: true, pid: process.pid, ...details });
  };
  await runMount(config, onReady, { tagAnswer: orders.tagAnswer });
  process.exit(0);
} catch (error) {
  const code = error instanceof OcifsError ? error.code : "internal";
  if (!ready) say({ ok: false, code, message: messageOf(error) });
  process.exit(1);
}
