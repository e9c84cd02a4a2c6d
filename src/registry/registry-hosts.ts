import { stat } from "node:fs/promises";
import { join } from "node:path";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { readBounded } from "../base/read-bounded.js";
import { apiHostOf } from "../oci/reference.js";
import { type ClientCertificate, readCertificateDirectory, readHostsFile } from "./hosts-file.js";

/** One server that a registry's content may be asked of. */
export interface RegistryHost {
  /** What the API's paths are below; its path ends with a slash. */
  readonly url: URL;
  /** Whether it may say what a tag means, and give manifests and blobs by their digest. */
  readonly resolve: boolean;
  readonly pull: boolean;
  readonly tls: HostTls;
  /** Sent to this server and to no other. */
  readonly headers: Readonly<Record<string, string>>;
}

export interface HostTls {
  /** PEM, trusted beside the system's. */
  readonly ca: readonly string[];
  readonly client: readonly ClientCertificate[];
  readonly skipVerify: boolean;
}

/** Who is asked instead of a registry, and before it. */
export interface RegistryHosts {
  /** In the order in which they are tried. */
  readonly mirrors: readonly RegistryHost[];
  /** The registry itself; undefined: at its name. */
  readonly server: RegistryHost | undefined;
}

export interface FindHostsOptions {
  /** Instead of `defaultHostsDirectories`. */
  readonly directory?: string | undefined;
  /** The registry speaks plain HTTP at its own name. */
  readonly insecure?: boolean;
}

/** Where containerd, nerdctl and Docker look, after our own place. */
export const defaultHostsDirectories = [
  "/etc/ocifs/certs.d",
  "/etc/containerd/certs.d",
  "/etc/docker/certs.d",
] as const;

/**
 * What the administrator says of a registry (containerd's `hosts.toml`, or Docker's files of certificates): of the first directory that
 * has something of it, looking for `HOST_PORT_`, `HOST:PORT` and `_default`. Undefined when nobody says anything. Throws `usage` for what
 * makes no sense, `not-found` for a directory that was asked for and is not there.
 */
export async function findRegistryHosts(
  registry: string,
  { directory, insecure = false }: FindHostsOptions = {},
): Promise<RegistryHosts | undefined> {
  const itsName = `${insecure ? "http" : "https"}://${apiHostOf(registry)}`;
  if (directory !== undefined && !(await isDirectory(directory))) {
    throw new OcifsError("not-found", `oci.hosts ${directory}: there is no such directory`);
  }
  for (const root of directory === undefined ? defaultHostsDirectories : [directory]) {
    for (const name of directoryNamesOf(registry)) {
      const found = await readHostsDirectory(join(root, name), itsName);
      if (found !== undefined) return found;
    }
  }
  return undefined;
}

/** A colon is no character for a name on every file system, so containerd writes it otherwise too. */
function directoryNamesOf(registry: string): string[] {
  const port = /^(.*):(\d+)$/.exec(registry);
  return [...(port ? [`${port[1]}_${port[2]}_`] : []), registry, "_default"];
}

async function readHostsDirectory(path: string, itsName: string): Promise<RegistryHosts | undefined> {
  if (!(await isDirectory(path))) return undefined;
  const file = join(path, "hosts.toml");
  const what = `registry hosts ${file}`;
  let bytes: Buffer;
  try {
    bytes = await readBounded(file, limits.hostsFileBytes, what);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return await readCertificateDirectory(path, itsName);
    throw isOcifsError(cause) ? cause : new OcifsError("io", `${what}: ${messageOf(cause)}`, { cause });
  }
  return await readHostsFile(bytes, path, what, itsName);
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw new OcifsError("io", `registry hosts ${path}: ${messageOf(cause)}`, { cause });
  }
}
