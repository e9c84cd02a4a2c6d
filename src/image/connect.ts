import { homedir } from "node:os";
import type { RegistryImage } from "../blob/registry-image.js";
import type { Reference } from "../oci/reference.js";

/** How to speak to a registry. */
export interface RegistryAccess {
  readonly username?: string;
  readonly password?: string;
  readonly insecure: boolean;
  readonly timeoutMs?: number;
  /** Where `hosts.toml` files are looked for; default: the places that containerd and Docker look at. */
  readonly hostsDir?: string;
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
  const { findRegistryHosts } = await import("../registry/registry-hosts.js");
  const { insecure, username, password, timeoutMs, hostsDir, loginEnv } = access;
  return openRegistryImage(reference, {
    insecure,
    hosts: await findRegistryHosts(reference.registry, { directory: hostsDir, insecure }),
    credentials: findCredentials({
      registry: reference.registry,
      ...(username === undefined ? {} : { username }),
      ...(password === undefined ? {} : { password }),
      ...(loginEnv === undefined ? {} : { env: loginEnv, homeDirectory: loginEnv.HOME ?? homedir() }),
    }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
}
