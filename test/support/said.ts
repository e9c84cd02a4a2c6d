import type { Log } from "../../src/base/log.js";

/** A log whose warnings and errors, with their reasons, are in `said`. */
export function listeningLog(): { readonly log: Log; readonly said: string[] } {
  const said: string[] = [];
  const say = (message: string, fields?: Record<string, unknown>) =>
    void said.push(fields?.reason === undefined ? message : `${message}: ${fields.reason}`);
  return { said, log: { debug: () => undefined, info: () => undefined, warn: say, error: say } };
}
