import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { type MetricsAddress, parseMetricsAddress } from "../daemon/metrics/address.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import { parseDurationMs, parseSizeBytes } from "./units.js";

export const drivers = ["auto", "fuse", "erofs", "fanotify", "fuse-native"] as const;
export type DriverName = (typeof drivers)[number];
export const logLevels = ["error", "warn", "info", "debug"] as const;
export type LogLevel = (typeof logLevels)[number];
const errorPolicies = ["eio", "retry"] as const;
const verifyModes = ["blob", "span", "none"] as const;
const prefetchModes = ["none", "idle", "all"] as const;
const profileModes = ["on", "off"] as const;
const daemons = ["auto", "shared", "own"] as const;

/** Where the daemon's log goes. `path` as typed; without it the daemon chooses. */
export interface LogTarget {
  readonly level: LogLevel;
  readonly path?: string;
}

/**
 * The options of one mount with their defaults filled in. Paths are as typed: whoever uses them resolves them against the
 * working directory. Which defaults depend on the machine (platform, cache directory) is left open here.
 */
export interface MountOptions {
  readonly blob?: Digest;
  readonly layer?: number;
  readonly platform?: string;
  readonly username?: string;
  readonly password?: string;
  readonly passwordFile?: string;
  readonly insecure: boolean;
  readonly hostsDir?: string;
  readonly tarindex?: string;
  readonly zinfo?: string;
  readonly driver: DriverName;
  readonly cacheDir?: string;
  readonly cacheSizeBytes?: number;
  readonly onError: (typeof errorPolicies)[number];
  readonly timeoutMs: number;
  readonly prefetch: (typeof prefetchModes)[number];
  readonly prefetchBytesPerSecond?: number;
  readonly profile: (typeof profileModes)[number];
  readonly verify: (typeof verifyModes)[number];
  readonly allowOther: boolean;
  readonly daemon: (typeof daemons)[number];
  readonly foreground: boolean;
  readonly log: LogTarget;
  readonly metrics?: MetricsAddress;
}

export const defaultMountOptions: MountOptions = {
  insecure: false,
  driver: "auto",
  onError: "eio",
  timeoutMs: 60_000,
  prefetch: "none",
  profile: "on",
  verify: "blob",
  allowOther: false,
  daemon: "auto",
  foreground: false,
  log: { level: "info" },
};

/** What the words of one command line say; a Partial of the options plus the image, which is not an option of the mount. */
export type OptionValues = { -readonly [K in keyof MountOptions]?: MountOptions[K] } & { image?: string };

export interface OptionRow {
  /** The word before `=`, matched exactly. */
  readonly key: string;
  /** How the value is written in help, or none for a flag. */
  readonly placeholder?: string;
  /** The default, as help and README say it. */
  readonly defaultText: string;
  /** One line, no full stop. */
  readonly help: string;
  /** Names of other options that may not stand beside this one. */
  readonly excludes?: readonly string[];
  /** Names of other options, one of which must stand beside this one. */
  readonly needs?: readonly string[];
  /** Puts the parsed value into `values`; throws `usage`. */
  readonly assign: (values: OptionValues, text: string | undefined) => void;
}

function row<K extends keyof OptionValues>(
  key: string,
  field: K,
  parse: (text: string | undefined, key: string) => Exclude<OptionValues[K], undefined>,
  rest: Omit<OptionRow, "key" | "assign">,
): OptionRow {
  const assign = (values: OptionValues, text: string | undefined): void => {
    values[field] = parse(text, key);
  };
  return { key, assign, ...rest };
}

function wanted(text: string | undefined, key: string): string {
  if (text === undefined || text === "") {
    throw new OcifsError("usage", `${key}: no value given, want ${key}=${placeholderOf(key)}`);
  }
  return text;
}

function oneOf<T extends string>(choices: readonly T[]): (text: string | undefined, key: string) => T {
  return (text, key) => {
    const choice = choices.find((candidate) => candidate === text);
    if (choice === undefined) {
      throw new OcifsError("usage", `${key}: got "${text ?? ""}", want one of ${choices.join(", ")}`);
    }
    return choice;
  };
}

/** Flags may carry a value, so that `oci.insecure=0` is never taken for "on". */
function flag(text: string | undefined, key: string): boolean {
  if (text === undefined || text === "true" || text === "1") return true;
  if (text === "false" || text === "0") return false;
  throw new OcifsError("usage", `${key}: got "${text}", want ${key} alone or ${key}=true, false, 1 or 0`);
}

function parseBlob(text: string | undefined, key: string): Digest {
  const value = wanted(text, key);
  return parseDigest(/^[0-9a-f]{64}$/.test(value) ? `sha256:${value}` : value);
}

function parseLayer(text: string | undefined, key: string): number {
  const value = wanted(text, key);
  if (!/^(0|[1-9]\d{0,5})$/.test(value) || Number(value) >= limits.layers) {
    throw new OcifsError("usage", `${key}: got "${value}", want a layer number from 0 to ${limits.layers - 1}`);
  }
  return Number(value);
}

/** Only the shape is checked here: `os/arch` or `os/arch/variant`, the alphabet of the OCI image spec's examples. */
export function parsePlatformText(text: string | undefined, key: string): string {
  const value = wanted(text, key);
  if (!/^[a-z0-9][a-z0-9._-]*(\/[a-z0-9][a-z0-9._-]*){1,2}$/.test(value)) {
    throw new OcifsError("usage", `${key}: got "${value}", want os/arch or os/arch/variant such as linux/arm64/v8`);
  }
  return value;
}

export function parseLog(text: string | undefined, key: string): LogTarget {
  const value = wanted(text, key);
  const colon = value.indexOf(":");
  const level = oneOf(logLevels)(colon < 0 ? value : value.slice(0, colon), key);
  return colon < 0 ? { level } : { level, path: wanted(value.slice(colon + 1), key) };
}

/** Every option of ours, in the order in which help lists them. `--help` and the README's table come from here. */
export const optionTable: readonly OptionRow[] = [
  row("oci.image", "image", wanted, {
    placeholder: "REF",
    defaultText: "SOURCE",
    help: "the image, instead of SOURCE",
  }),
  row("oci.layer", "layer", parseLayer, {
    placeholder: "N",
    defaultText: "all layers, merged",
    help: "mount one layer only, counted from 0, the base layer",
    excludes: ["oci.blob"],
  }),
  row("oci.blob", "blob", parseBlob, {
    placeholder: "DIGEST",
    defaultText: "all layers, merged",
    help: "mount one layer only, by the digest of its blob; 64 hex characters alone mean sha256",
    excludes: ["oci.layer"],
  }),
  row("oci.tarindex", "tarindex", wanted, {
    placeholder: "PATH",
    defaultText: "the cache's, or built now",
    help: "index of the one layer's tar; the .json beside it is used when there is one",
  }),
  row("oci.zinfo", "zinfo", wanted, {
    placeholder: "PATH",
    defaultText: "the cache's, or built now",
    help: "checkpoints of the layer's gzip stream; a plain tar has none",
    needs: ["oci.tarindex"],
  }),
  row("oci.platform", "platform", parsePlatformText, {
    placeholder: "OS/ARCH[/VARIANT]",
    defaultText: "this machine's",
    help: "which image of a multi-platform image to take",
  }),
  row("oci.username", "username", wanted, {
    placeholder: "NAME",
    defaultText: "docker or Podman login",
    help: "user name at the registry",
    needs: ["oci.password", "oci.password_file"],
  }),
  row("oci.password", "password", wanted, {
    placeholder: "SECRET",
    defaultText: "docker or Podman login",
    help: "password at the registry; seen by others while the command runs",
    excludes: ["oci.password_file"],
    needs: ["oci.username"],
  }),
  row("oci.password_file", "passwordFile", wanted, {
    placeholder: "PATH",
    defaultText: "docker or Podman login",
    help: "file whose first line is the password",
    excludes: ["oci.password"],
    needs: ["oci.username"],
  }),
  row("oci.insecure", "insecure", flag, {
    defaultText: "off",
    help: "speak plain HTTP to the registry",
  }),
  row("oci.hosts", "hostsDir", wanted, {
    placeholder: "DIR",
    defaultText: "/etc/{ocifs,containerd,docker}/certs.d",
    help: "mirrors and certificates of registries, as HOST/hosts.toml of containerd",
  }),
  row("driver", "driver", oneOf(drivers), {
    placeholder: drivers.join("|"),
    defaultText: defaultMountOptions.driver,
    help: "who answers the kernel: fuse, as root its own EROFS (erofs, fanotify), or the package fuse-native",
  }),
  row("cachedir", "cacheDir", wanted, {
    placeholder: "DIR",
    defaultText: "/var/cache/ocifs (root), else $XDG_CACHE_HOME/ocifs",
    help: "where fetched data is kept; mounts may share it",
  }),
  row("cachesize", "cacheSizeBytes", (text, key) => parseSizeBytes(wanted(text, key), key), {
    placeholder: "SIZE",
    defaultText: "no limit",
    help: "most bytes the cache may take up on disk, such as 10G; the smallest of all mounts that share it holds",
  }),
  row("onerror", "onError", oneOf(errorPolicies), {
    placeholder: errorPolicies.join("|"),
    defaultText: defaultMountOptions.onError,
    help: "when data cannot be fetched within the timeout: fail the read with EIO, or keep trying",
  }),
  row("timeout", "timeoutMs", (text, key) => parseDurationMs(wanted(text, key), key), {
    placeholder: "TIME",
    defaultText: "60s",
    help: "how long a fetch without progress is tried again: seconds, or with ms, s, m or h",
  }),
  row("verify", "verify", oneOf(verifyModes), {
    placeholder: verifyModes.join("|"),
    defaultText: defaultMountOptions.verify,
    help: "an index without span digests: check checkpoints and the complete blob, refuse it, or trust it",
  }),
  row("prefetch", "prefetch", oneOf(prefetchModes), {
    placeholder: prefetchModes.join("|"),
    defaultText: defaultMountOptions.prefetch,
    help: "fetch what was not asked for: nothing, everything while no read waits for data, or everything at once",
  }),
  row("prefetchrate", "prefetchBytesPerSecond", (text, key) => parseSizeBytes(wanted(text, key), key), {
    placeholder: "SIZE",
    defaultText: "no limit",
    help: "most bytes a second that prefetch takes from the network; reads are not slowed down",
  }),
  row("profile", "profile", oneOf(profileModes), {
    placeholder: profileModes.join("|"),
    defaultText: defaultMountOptions.profile,
    help: "fetch first what the last mount with an empty cache read first, and write down what this one reads",
  }),
  row("allow_other", "allowOther", flag, {
    defaultText: "off",
    help: "let other users in, as mounts by root always do; the kernel checks file permissions",
  }),
  row("daemon", "daemon", oneOf(daemons), {
    placeholder: daemons.join("|"),
    defaultText: defaultMountOptions.daemon,
    help: "served by ocifs daemon, by a daemon of its own, or by ocifs daemon if that runs",
  }),
  row("foreground", "foreground", flag, {
    defaultText: "off",
    help: "do not go to the background; log to standard error",
  }),
  row("log", "log", parseLog, {
    placeholder: "LEVEL[:PATH]",
    defaultText: "info",
    help: `how much to log (${logLevels.join(", ")}), and a file to append to`,
  }),
  row("metrics", "metrics", (text, key) => parseMetricsAddress(wanted(text, key), key), {
    placeholder: "127.0.0.1:PORT",
    defaultText: "none",
    help: "offer Prometheus metrics there, at /metrics; ocifs metrics prints them too",
  }),
];

const rowByKey = new Map(optionTable.map((entry) => [entry.key, entry]));

/** The row of exactly this key. */
export function findOption(key: string): OptionRow | undefined {
  return rowByKey.get(key);
}

function placeholderOf(key: string): string {
  return rowByKey.get(key)?.placeholder ?? "VALUE";
}

/** Keys of ours, for the message about an unknown one. */
export function knownKeys(prefix: string): string {
  const keys = optionTable.map((entry) => entry.key).filter((key) => key.startsWith(prefix));
  return keys.join(", ");
}

function writtenAs(entry: OptionRow): string {
  return entry.placeholder === undefined ? entry.key : `${entry.key}=${entry.placeholder}`;
}

/** The options as lines for `mount.ocifs --help`: at most 100 columns unless a single word is longer. */
export function formatOptionHelp(): string {
  return optionTable.map((entry) => `  ${writtenAs(entry)}\n      ${entry.help} [${entry.defaultText}]\n`).join("");
}

/** The options as a Markdown table, for the README. */
export function formatOptionMarkdown(): string {
  const cell = (text: string): string => text.replaceAll("|", "\\|");
  const rows = optionTable.map(
    (entry) => `| \`${cell(writtenAs(entry))}\` | ${cell(entry.defaultText)} | ${cell(entry.help)} |`,
  );
  return ["| option | default | meaning |", "|---|---|---|", ...rows].join("\n");
}
