import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { addon, awaitNative } from "./addon.js";

const native = addon as unknown as { trimMemory(): Promise<void> };

let collect: (() => void) | undefined;

/**
 * Gives memory back to the system: what nobody refers to any more, and what was freed and the allocator keeps. Stops this thread for some
 * tens of ms; V8 by itself would wait until more is wanted, which in a daemon may be never.
 */
export function trimMemory(): Promise<void> {
  collect ??= exposeCollector();
  collect();
  return awaitNative(() => native.trimMemory());
}

/** V8 shows its collector to contexts that are made after this flag was set. */
function exposeCollector(): () => void {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
}
