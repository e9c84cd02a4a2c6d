import { mkdirSync, openSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import type { Logger } from "pino";

const require = createRequire(import.meta.url);

/** What the library layers may say. The text is for people; `fields` for machines. No secret ever goes in. */
export interface Log {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
}

/** The same message this often within a minute says all there is to say; a network that is down must not fill the disk. */
const REPEATS_PER_MINUTE = 20;
const MINUTE_MS = 60_000;

type Level = keyof Log;

/**
 * Log lines as JSON, written synchronously: the last words of a dying process must not be lost. Repeated messages are
 * counted instead of written once they come too often.
 * `destination` is a path (appended to, created 0600; opened at once) or a descriptor. pino is loaded for the first line: it
 * is a third of what a daemon loads, and a mount need not wait for it.
 */
export function openLog(level: Level, destination: string | number, now: () => number = Date.now): Log {
  const fd = typeof destination === "number" ? destination : openForAppending(destination);
  let logger: Logger | undefined;
  const repeats = new Map<string, { since: number; count: number }>();
  const write =
    (name: Level) =>
    (message: string, fields: Record<string, unknown> = {}) => {
      if (severity[name] < severity[level]) return;
      logger ??= openLogger(level, fd);
      const time = now();
      let seen = repeats.get(message);
      if (seen === undefined || time - seen.since >= MINUTE_MS) {
        const left = seen ? seen.count - REPEATS_PER_MINUTE : 0;
        if (left > 0) logger[name]({ suppressed: left }, `${message} (repeated)`);
        seen = { since: time, count: 0 };
        repeats.set(message, seen);
      }
      seen.count++;
      if (seen.count <= REPEATS_PER_MINUTE) logger[name](fields, message);
    };
  return { debug: write("debug"), info: write("info"), warn: write("warn"), error: write("error") };
}

const severity: Readonly<Record<Level, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

function openForAppending(path: string): number {
  mkdirSync(dirname(path), { recursive: true });
  return openSync(path, "a", 0o600);
}

function openLogger(level: Level, fd: number): Logger {
  const { pino } = require("pino") as typeof import("pino");
  return pino({ level, base: { pid: process.pid } }, pino.destination({ dest: fd, sync: true }));
}

/** Says nothing; for commands whose results speak. */
export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
