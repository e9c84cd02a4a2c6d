import { readdir } from "node:fs/promises";
import { resolve } from "node:path";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { readBounded } from "../base/read-bounded.js";
import type { HostTls, RegistryHost, RegistryHosts } from "./registry-hosts.js";

/** PEM. */
export interface ClientCertificate {
  readonly cert: string;
  readonly key: string;
}

type Table = Readonly<Record<string, unknown>>;

/** Reads a value of one file, whose directory relative paths start from. Its errors name both. */
interface Reader {
  readonly directory: string;
  readonly what: string;
}

/**
 * containerd's `hosts.toml` (docs/hosts.md of containerd): the settings of `server` at the top, of mirrors in `[host."URL"]`, tried as they
 * stand. `itsName` is where the registry is if nothing else is said. Unknown keys are left alone, as by containerd. Throws `usage`, naming the file and the key.
 */
export async function readHostsFile(
  bytes: Uint8Array,
  directory: string,
  what: string,
  itsName: string,
): Promise<RegistryHosts> {
  // Few machines have such a file; the others do not load the parser.
  const { parse } = await import("smol-toml");
  const reader = { directory, what };
  let document: Table;
  try {
    document = parse(Buffer.from(bytes).toString("utf8")) as Table;
  } catch (cause) {
    throw bad(reader, messageOf(cause).split("\n")[0] ?? "it is no TOML");
  }
  const hosts = Object.entries(tableAt(document, "host", reader));
  if (hosts.length > limits.registryMirrors) {
    throw new OcifsError("limit", `${what}: ${hosts.length} hosts, at most ${limits.registryMirrors}`);
  }
  const mirrors: RegistryHost[] = [];
  for (const [name, settings] of hosts) {
    // A password may stand in it, though none should.
    const ofHost = { ...reader, what: `${what}: host."${name.replace(/[^/]*@/, "")}"` };
    if (!isTable(settings)) throw bad(ofHost, "want a table");
    mirrors.push(await hostOf(name, settings, ofHost));
  }
  const server = textAt(document, "server", reader) ?? itsName;
  // What stands at the top is said of the server, also where it has its usual place.
  return { mirrors, server: await hostOf(server, document, reader) };
}

/** Docker's form: `*.crt` to trust, and `*.cert` with the `*.key` beside it to show. Undefined when there is nothing of the kind. */
export async function readCertificateDirectory(directory: string, itsName: string): Promise<RegistryHosts | undefined> {
  const reader = { directory, what: `registry certificates in ${directory}` };
  const names = (await readdir(directory)).sort();
  const read = (ending: string) => names.filter((name) => name.endsWith(ending));
  const ca = await Promise.all(read(".crt").map((name) => readPem(name, reader)));
  const client: ClientCertificate[] = [];
  for (const name of read(".cert")) {
    const key = name.replace(/\.cert$/, ".key");
    client.push({ cert: await readPem(name, reader), key: await readPem(key, reader) });
  }
  if (ca.length === 0 && client.length === 0) return undefined;
  return { mirrors: [], server: await hostOf(itsName, {}, reader, { ca, client, skipVerify: false }) };
}

async function hostOf(name: string, settings: Table, reader: Reader, tls?: HostTls): Promise<RegistryHost> {
  const capabilities = textsAt(settings, "capabilities", reader);
  for (const capability of capabilities ?? []) {
    if (!["pull", "resolve", "push"].includes(capability))
      throw bad(reader, `capabilities: "${capability}" is unknown`);
  }
  const can = (capability: string) => capabilities === undefined || capabilities.includes(capability);
  return {
    url: urlOf(name, booleanAt(settings, "override_path", reader), reader),
    resolve: can("resolve"),
    pull: can("pull"),
    tls: tls ?? (await tlsOf(settings, reader)),
    headers: headersOf(settings, reader),
  };
}

/** Without a scheme it is https. The API is below `/v2` of the path unless `override_path` says that the path is all. */
function urlOf(name: string, overridesPath: boolean, reader: Reader): URL {
  const text = /^https?:\/\//.test(name) ? name : `https://${name}`;
  if (!URL.canParse(text) || name === "") throw bad(reader, `"${name}": want the URL of a server`);
  const url = new URL(text);
  if (url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== "") {
    throw bad(reader, `"${url.host}": want a URL without user, query and fragment`);
  }
  const path = url.pathname.replace(/\/+$/, "");
  url.pathname = overridesPath || path.endsWith("/v2") ? `${path}/` : `${path}/v2/`;
  return url;
}

async function tlsOf(settings: Table, reader: Reader): Promise<HostTls> {
  const ca: string[] = [];
  for (const path of textsAt(settings, "ca", reader) ?? []) ca.push(await readPem(path, reader));
  return {
    ca,
    client: await clientOf(settings.client, reader),
    skipVerify: booleanAt(settings, "skip_verify", reader),
  };
}

/** A file with both, a list of such, or a list of pairs of certificate and key; an empty key: it is in the first. */
async function clientOf(value: unknown, reader: Reader): Promise<ClientCertificate[]> {
  const entries = value === undefined ? [] : Array.isArray(value) ? value : [value];
  const client: ClientCertificate[] = [];
  for (const entry of entries) {
    const [certPath, keyPath = ""] = Array.isArray(entry) ? entry : [entry];
    if (typeof certPath !== "string" || typeof keyPath !== "string" || (Array.isArray(entry) && entry.length > 2)) {
      throw bad(reader, "client: want a path, or pairs of paths of certificate and key");
    }
    const cert = await readPem(certPath, reader);
    client.push({ cert, key: keyPath === "" ? cert : await readPem(keyPath, reader) });
  }
  return client;
}

function headersOf(settings: Table, reader: Reader): Record<string, string> {
  const headers: Record<string, string> = {};
  const table = tableAt(settings, "header", reader);
  for (const name of Object.keys(table)) {
    const values = textsAt(table, name, reader) ?? [];
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) || values.some((value) => /[^\t\x20-\x7e]/.test(value))) {
      throw bad(reader, `header."${name}": that is no header of HTTP`);
    }
    headers[name.toLowerCase()] = values.join(", ");
  }
  return headers;
}

async function readPem(path: string, { directory, what }: Reader): Promise<string> {
  const absolute = resolve(directory, path);
  try {
    return (await readBounded(absolute, limits.hostsFileBytes, `${what}: ${absolute}`)).toString("utf8");
  } catch (cause) {
    if (isOcifsError(cause)) throw cause;
    throw new OcifsError("io", `${what}: ${absolute}: ${messageOf(cause)}`, { cause });
  }
}

function bad({ what }: Reader, why: string): OcifsError {
  return new OcifsError("usage", `${what}: ${why}`);
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function tableAt(table: Table, key: string, reader: Reader): Table {
  const value = table[key] ?? {};
  if (!isTable(value)) throw bad(reader, `${key}: want a table`);
  return value;
}

function textAt(table: Table, key: string, reader: Reader): string | undefined {
  const value = table[key];
  if (value !== undefined && typeof value !== "string") throw bad(reader, `${key}: want text`);
  return value === "" ? undefined : value;
}

/** One text, or a list of them. */
function textsAt(table: Table, key: string, reader: Reader): string[] | undefined {
  const value = table[key];
  if (value === undefined) return undefined;
  const values: unknown[] = Array.isArray(value) ? value : [value];
  if (!values.every((each) => typeof each === "string")) throw bad(reader, `${key}: want text, or a list of it`);
  return values as string[];
}

function booleanAt(table: Table, key: string, reader: Reader): boolean {
  const value = table[key] ?? false;
  if (typeof value !== "boolean") throw bad(reader, `${key}: want true or false`);
  return value;
}
