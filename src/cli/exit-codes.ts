import { OcifsError, type OcifsErrorCode } from "../base/errors.js";

/** Exit codes of mount(8), "EXIT STATUS". They are bits, and a helper returns one of them. */
export const mountExitCodes = {
  success: 0,
  /** Incorrect invocation or permissions. */
  usage: 1,
  /** System error: out of memory, cannot fork. */
  system: 2,
  /** Internal mount bug. */
  bug: 4,
  /** User interrupt. */
  interrupted: 8,
  /** Trouble writing or locking mtab; ocifs writes none, so it never ends with it. */
  mtab: 16,
  /** Mount failure. */
  failure: 32,
  /** Some mounts of several succeeded; a helper makes one, so it never ends with it. */
  some: 64,
} as const;

const mountExitCodeByError: Record<OcifsErrorCode, number> = {
  usage: mountExitCodes.usage,
  // The invocation was right and the thing could not be mounted: absent, locked away, unreachable, broken, too large.
  "not-found": mountExitCodes.failure,
  unauthorized: mountExitCodes.failure,
  denied: mountExitCodes.failure,
  network: mountExitCodes.failure,
  timeout: mountExitCodes.failure,
  corrupt: mountExitCodes.failure,
  mismatch: mountExitCodes.failure,
  unsupported: mountExitCodes.failure,
  limit: mountExitCodes.failure,
  // mount(2) itself and the files it is given fail with this code; mount(8) counts those as mount failures too.
  io: mountExitCodes.failure,
  busy: mountExitCodes.failure,
  // The machine lacks something that any mount would have needed.
  "no-space": mountExitCodes.system,
  aborted: mountExitCodes.interrupted,
  internal: mountExitCodes.bug,
};

/** The exit code of `mount.ocifs` for anything thrown. What is not an OcifsError is a bug of ours. */
export function mountExitCode(error: unknown): number {
  return error instanceof OcifsError ? mountExitCodeByError[error.code] : mountExitCodes.bug;
}

/** Exit codes of `ocifs`: what a shell script can act on, as most tools of GNU have it. */
export const commandExitCodes = {
  success: 0,
  failure: 1,
  usage: 2,
  /** 128 + SIGINT, as shells report it. */
  interrupted: 130,
  /** 128 + SIGPIPE: whoever read our output has left, as with `ocifs ls | head`. */
  brokenPipe: 141,
} as const;

/** The exit code of `ocifs` for anything thrown. */
export function commandExitCode(error: unknown): number {
  if (!(error instanceof OcifsError)) return commandExitCodes.failure;
  if (error.code === "usage") return commandExitCodes.usage;
  return error.code === "aborted" ? commandExitCodes.interrupted : commandExitCodes.failure;
}
