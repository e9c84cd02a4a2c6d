import { mkdirSync, openSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import type { Logger } from "pino";
import { limits } from "./limits.js";

const require = createRequire(import.meta.url);

/** What the library layers may say. The text is for people; `fields` for machines. No secret ever goes in. */
export interface Log {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
}

const MINUTE_MS = 60_000;

type Level = keyof Log;

/** Messages since `since`. */
interface Tally {
  since: number;
  count: number;
}

/**
 * Log lines as JSON, written synchronously: the last words of a dying process must not be lost. Repeated messages are
 * counted instead of written once they come too often, and so is everything once there is too much of it.
 * `destination` is a path (appended to, created 0600; opened at once) or a descriptor. pino is loaded for the first line: it
 * is a third of what a daemon loads, and a mount need not wait for it.
 */
export function openLog(level: Level, destination: string | number, now: () => number = Date.now): Log {
  const fd = typeof destination === "number" ? destination : openForAppending(destination);
  let opened: Logger | undefined;
  const logger = () => {
    opened ??= openLogger(level, fd);
    return opened;
  };
  /** Oldest first. */
  const repeats = new Map<string, Tally>();
  let all: Tally = { since: now(), count: 0 };
  const forget = (name: Level, message: string, seen: Tally) => {
    repeats.delete(message);
    const left = seen.count - limits.logRepeatsPerMinute;
    if (left > 0) logger()[name]({ suppressed: left }, `${message} (repeated)`);
  };
  const write =
    (name: Level) =>
    (text: string, fields: Record<string, unknown> = {}) => {
      if (severity[name] < severity[level]) return;
      const message = cut(text);
      const time = now();
      if (time - all.since >= MINUTE_MS) {
        const left = all.count - limits.logLinesPerMinute;
        if (left > 0) logger().warn({ suppressed: left }, "more lines than are written within a minute");
        all = { since: time, count: 0 };
      }
      let seen = repeats.get(message);
      if (seen !== undefined && time - seen.since >= MINUTE_MS) {
        forget(name, message, seen);
        seen = undefined;
      }
      if (seen === undefined) {
        const [oldest] = repeats;
        if (oldest !== undefined && repeats.size >= limits.logMessages) forget(name, ...oldest);
        seen = { since: time, count: 0 };
        repeats.set(message, seen);
      }
      seen.count++;
      if (seen.count > limits.logRepeatsPerMinute) return;
      all.count++;
      if (all.count <= limits.logLinesPerMinute) logger()[name](cutStrings(fields), message);
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

function cutStrings(fields: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(fields);
  return Object.fromEntries(entries.map(([key, value]) => [key, typeof value === "string" ? cut(value) : value]));
}

function cut(text: string): string {
  const { logLineCharacters } = limits;
  return text.length <= logLineCharacters ? text : `${text.slice(0, logLineCharacters)}… (${text.length} characters)`;
}

/** Says nothing; for commands whose results speak. */
export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
