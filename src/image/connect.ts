import { homedir } from "node:os";
import type { RegistryImage } from "../blob/registry-image.js";
import type { Reference } from "../oci/reference.js";

/** How to speak to a registry. */
export interface RegistryAccess {
  readonly username?: string;
  readonly password?: string;
  readonly insecure: boolean;
  readonly timeoutMs?: number;
  /** Where logins are looked for, in place of this process' own environment; see `loginEnvironment`. */
  readonly loginEnv?: Readonly<Record<string, string>>;
}

/**
 * An image in its registry. Nothing is requested yet; the caller closes it. The HTTP client is most of what a command loads, so
 * it is loaded here and not before.
 */
export async function connect(reference: Reference, access: RegistryAccess): Promise<RegistryImage> {
  const { openRegistryImage } = await import("../blob/registry-image.js");
  const { findCredentials } = await import("../registry/credentials.js");
  const { insecure, username, password, timeoutMs, loginEnv } = access;
  return openRegistryImage(reference, {
    insecure,
    credentials: findCredentials({
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password }),
      ...(loginEnv === undefined ? {} : { env: loginEnv, homeDirectory: loginEnv.HOME ?? homedir() }),
    }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
}
