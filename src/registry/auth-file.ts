import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { readBounded } from "../base/read-bounded.js";
import { asObject, asOptionalString, asStringMap, type JsonObject, parseJsonObject } from "../oci/json.js";
import { dockerHub } from "../oci/reference.js";
import { Credential } from "./credential.js";

/** What an auth file says about one repository. */
export type AuthFileAnswer =
  | { readonly kind: "credential"; readonly credential: Credential }
  | { readonly kind: "helper"; readonly helper: string };

/** What Docker calls its Hub in its config file and in requests to helpers. */
export const dockerHubServer = "https://index.docker.io/v1/";

/**
 * Docker's `config.json` and Podman's `auth.json`, which is the same format with keys that may go on after the host:
 * `registry/namespace/repository` (containers-auth.json(5)). Keys are looked up most specific first.
 */
export class AuthFile {
  readonly #path: string;
  readonly #auths: ReadonlyMap<string, JsonObject>;
  readonly #helpers: ReadonlyMap<string, string>;
  readonly #defaultHelper: string | undefined;

  /** Throws `corrupt`; the message names the file and never quotes it. */
  constructor(path: string, bytes: Uint8Array) {
    const what = `credentials in ${path}`;
    const document = parseJsonObject(bytes, what);
    this.#path = path;
    const auths =
      document.auths === undefined || document.auths === null ? {} : asObject(document.auths, `${what}: auths`);
    this.#auths = byPlace(Object.keys(auths), (key) => asObject(auths[key], `${what}: auths["${key}"]`));
    const helpers = asStringMap(document.credHelpers, `${what}: credHelpers`);
    this.#helpers = byPlace([...helpers.keys()], (key) => helpers.get(key) ?? "");
    this.#defaultHelper = asOptionalString(document.credsStore, `${what}: credsStore`) || undefined;
  }

  /** The answers to try, in order: a helper for this place, then the entry in the file, unless a helper keeps them all. */
  find(registry: string, repository: string): readonly AuthFileAnswer[] {
    const answers: AuthFileAnswer[] = [];
    const places = placesOf(registry, repository);
    const helper = firstOf(this.#helpers, places) || this.#defaultHelper;
    if (helper !== undefined) answers.push({ kind: "helper", helper });
    for (const place of places) {
      const entry = this.#auths.get(place);
      const credential =
        entry === undefined ? undefined : parseEntry(entry, `credentials in ${this.#path}: auths["${place}"]`);
      if (credential === undefined) continue;
      answers.push({ kind: "credential", credential });
      break;
    }
    return answers;
  }
}

/** Reads an auth file; undefined when there is none. Throws `limit`, `corrupt` or `io`. */
export async function readAuthFile(path: string): Promise<AuthFile | undefined> {
  try {
    return new AuthFile(path, await readBounded(path, limits.dockerConfigBytes, `credentials in ${path}`));
  } catch (error) {
    if (error instanceof OcifsError) throw error;
    const missing = error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ENOTDIR");
    if (missing) return undefined;
    throw new OcifsError("io", `credentials in ${path}: cannot read: ${messageOf(error)}`, { cause: error });
  }
}

function byPlace<T>(keys: readonly string[], valueAt: (key: string) => T): ReadonlyMap<string, T> {
  const places = new Map<string, T>();
  for (const key of keys) {
    const place = placeOfKey(key);
    // Two spellings of one place: the bare one, which current tools write, wins over the URL.
    if (!places.has(place) || key === place) places.set(place, valueAt(key));
  }
  return places;
}

/** `host[:port]` or `host[:port]/path`. URLs are an old spelling of the host, whatever their path. */
function placeOfKey(key: string): string {
  const scheme = /^https?:\/\//i.exec(key)?.[0];
  const rest = scheme === undefined ? key : key.slice(scheme.length);
  const slash = rest.indexOf("/");
  const host = canonicalHost(slash < 0 ? rest : rest.slice(0, slash));
  const path = slash < 0 ? "" : rest.slice(slash + 1).replace(/\/+$/, "");
  return scheme !== undefined || path === "" || path === "v1" || path === "v2" ? host : `${host}/${path}`;
}

function canonicalHost(host: string): string {
  const lower = host.toLowerCase();
  return lower === "index.docker.io" || lower === "registry-1.docker.io" ? dockerHub : lower;
}

/** `r/a/b`, `r/a`, `r`. */
function placesOf(registry: string, repository: string): readonly string[] {
  const components = repository.split("/");
  const paths = components.map((_, index) => components.slice(0, components.length - index).join("/"));
  return [...paths.map((path) => `${registry}/${path}`), registry];
}

function firstOf(values: ReadonlyMap<string, string>, places: readonly string[]): string | undefined {
  const place = places.find((candidate) => values.has(candidate));
  return place === undefined ? undefined : values.get(place);
}

/** undefined for the empty entries that Docker leaves behind when a helper keeps the secret. */
function parseEntry(entry: JsonObject, what: string): Credential | undefined {
  const identityToken = asOptionalString(entry.identitytoken, `${what}.identitytoken`);
  if (identityToken) return Credential.identityToken(identityToken);
  const auth = asOptionalString(entry.auth, `${what}.auth`);
  if (auth) return parseBasicAuth(auth, what);
  const username = asOptionalString(entry.username, `${what}.username`);
  const password = asOptionalString(entry.password, `${what}.password`);
  return username && password ? Credential.basic(username, password) : undefined;
}

/** base64 of `user:password`; Docker pads with NULs. */
function parseBasicAuth(auth: string, what: string): Credential {
  const text = Buffer.from(auth, "base64").toString("utf8");
  const colon = text.indexOf(":");
  if (colon < 1) throw new OcifsError("corrupt", `${what}.auth: want base64 of user:password`);
  return Credential.basic(text.slice(0, colon), text.slice(colon + 1).replace(/\0+$/, ""));
}
