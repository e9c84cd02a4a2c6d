import pino from "pino";

/** What the library layers may say. The text is for people; `fields` for machines. No secret ever goes in. */
export interface Log {
  debug(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  error(message: string, fields?: Record<string, unknown>): void;
}

/** Log lines as JSON, written synchronously: the last words of a dying process must not be lost. */
export function openLog(level: "error" | "warn" | "info" | "debug", destination: string | number): Log {
  const logger = pino(
    { level, base: { pid: process.pid } },
    pino.destination({ dest: destination, sync: true, mkdir: true, mode: 0o600 }),
  );
  const at = (name: "debug" | "info" | "warn" | "error") => (message: string, fields?: Record<string, unknown>) =>
    logger[name](fields ?? {}, message);
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

/** Says nothing; for commands whose results speak. */
export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
