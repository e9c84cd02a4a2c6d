import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { asArray, asObject, asOptionalString, asString, asStringMap, parseJsonObject } from "../oci/json.js";

/** What an image says about how to run it: OCI image spec `config.md`, the fields that `conversion.md` names. */
export interface RunSettings {
  readonly os: string | undefined;
  readonly architecture: string | undefined;
  readonly variant: string | undefined;
  readonly osVersion: string | undefined;
  readonly osFeatures: readonly string[];
  readonly author: string | undefined;
  readonly created: string | undefined;
  /** `user`, `uid`, `user:group`, `uid:gid`, or a mixture; empty when the image does not say. */
  readonly user: string;
  /** `NAME=VALUE` each. */
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workingDir: string;
  readonly labels: ReadonlyMap<string, string>;
  /** Absolute paths. */
  readonly volumes: readonly string[];
  /** `80/tcp` and the like. */
  readonly exposedPorts: readonly string[];
  readonly stopSignal: string | undefined;
}

/** Parses the run settings of an image config from outside. Throws `corrupt` or `limit`. */
export function parseRunSettings(bytes: Uint8Array, what: string): RunSettings {
  const document = parseJsonObject(bytes, what);
  const text = (key: string) => asOptionalString(document[key], `${what}: ${key}`);
  // Go writes null for what is empty.
  const config = asObject(document.config ?? {}, `${what}: config`);
  const list = (key: string) => asStrings(config[key] ?? [], `${what}: config.${key}`);
  // A set, in Go's notation: the keys count.
  const keys = (key: string) => {
    const names = Object.keys(asObject(config[key] ?? {}, `${what}: config.${key}`));
    if (names.length > limits.runSettings) throw tooMany(`${what}: config.${key}`, names.length);
    return names;
  };
  const configText = (key: string) => asOptionalString(config[key], `${what}: config.${key}`);
  return {
    os: text("os"),
    architecture: text("architecture"),
    variant: text("variant"),
    osVersion: text("os.version"),
    osFeatures: asStrings(document["os.features"] ?? [], `${what}: os.features`),
    author: text("author"),
    created: text("created"),
    user: configText("User") ?? "",
    env: list("Env"),
    entrypoint: list("Entrypoint"),
    cmd: list("Cmd"),
    workingDir: configText("WorkingDir") ?? "",
    labels: asStringMap(config.Labels, `${what}: config.Labels`),
    volumes: keys("Volumes"),
    exposedPorts: keys("ExposedPorts"),
    stopSignal: configText("StopSignal"),
  };
}

function asStrings(value: unknown, what: string): readonly string[] {
  return asArray(value, what, limits.runSettings).map((item, index) => asString(item, `${what}[${index}]`));
}

function tooMany(what: string, count: number): OcifsError {
  return new OcifsError("limit", `${what}: ${count} entries, the limit is ${limits.runSettings}`);
}
