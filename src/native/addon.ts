import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { messageOf, OcifsError, type OcifsErrorCode } from "../base/errors.js";

/** dist/src/native/addon.js → the package's root. */
const packageRoot = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

function load(): Record<string, unknown> {
  const path = join(packageRoot, "native", "build", "Release", "ocifs.node");
  try {
    return createRequire(import.meta.url)(path) as Record<string, unknown>;
  } catch (cause) {
    throw new OcifsError(
      "io",
      `native addon: cannot load ${path}: ${messageOf(cause)}; build it with scripts/build-native`,
      {
        cause,
      },
    );
  }
}

/** The addon, loaded once. The modules beside this one give its parts their types; nothing else imports it. */
export const addon = load();

/** Turns an Error thrown by a native wrapper into an OcifsError; anything else is returned as it is. */
export function fromNative(error: unknown): unknown {
  if (error instanceof Error && "ocifsCode" in error) {
    return new OcifsError(error.ocifsCode as OcifsErrorCode, error.message, { cause: error });
  }
  return error;
}

/** Calls a native function and converts what it throws. */
export function callNative<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw fromNative(error);
  }
}

/** Awaits a native promise and converts its rejection. */
export async function awaitNative<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw fromNative(error);
  }
}
