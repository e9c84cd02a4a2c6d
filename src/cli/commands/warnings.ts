import type { Log } from "../../base/log.js";
import type { TextSink } from "../output.js";

/** What a command that has no log tells its user: warnings and errors, a line each. */
export function warningsTo(sink: TextSink): Log {
  const say = (message: string, fields?: Record<string, unknown>) => {
    const reason = fields?.reason;
    sink.write(`ocifs: ${message}${reason === undefined ? "" : `: ${reason}`}\n`);
  };
  return { debug: () => undefined, info: () => undefined, warn: say, error: say };
}
