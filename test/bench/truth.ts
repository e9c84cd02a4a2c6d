import type { ReadResult } from "./bench.js";

/** Wrong bytes are an error, and an error ends the workload and makes the exit code non-zero. */
export function requireSame(got: ReadResult, want: ReadResult, what: string): void {
  if (got.hash !== want.hash || got.bytes !== want.bytes) {
    throw new Error(`${what}: wrong bytes (${got.hash} of ${got.bytes}, want ${want.hash} of ${want.bytes})`);
  }
}
