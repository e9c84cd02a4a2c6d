import { posix } from "node:path";
import { OcifsError } from "../base/errors.js";
import type { RunSettings } from "./run-settings.js";
import type { ProcessUser } from "./users.js";

/** Of the OCI runtime spec's mounts. */
export interface RuntimeMount {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** The parts of `config.json` (OCI runtime spec) that a bundle of ours has. */
export interface RuntimeConfig {
  readonly ociVersion: string;
  readonly process: {
    readonly terminal: boolean;
    readonly user: ProcessUser;
    readonly args: readonly string[];
    readonly env: readonly string[];
    readonly cwd: string;
    readonly capabilities: Readonly<Record<string, readonly string[]>>;
    readonly noNewPrivileges: boolean;
  };
  readonly root: { readonly path: string; readonly readonly: boolean };
  readonly hostname: string;
  readonly mounts: readonly RuntimeMount[];
  readonly annotations: Readonly<Record<string, string>>;
  readonly linux: object;
}

export interface Conversion {
  readonly settings: RunSettings;
  readonly user: ProcessUser;
  /** Instead of the image's entrypoint, and of its command with it; an empty list drops it. */
  readonly entrypoint?: readonly string[];
  /** Instead of the image's command, unless empty; the entrypoint stays in front, as with container engines. */
  readonly args: readonly string[];
  readonly readOnly: boolean;
  readonly terminal: boolean;
  /** Where a volume's directory is, relative to the bundle. */
  readonly volumePath: (number: number) => string;
}

/** What a shell without PATH would search too; runtimes look for `args[0]` in it. */
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** What container engines leave to root in a container. */
const capabilities = [
  ...["CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"],
  ...["NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"],
].map((name) => `CAP_${name}`);

/** The file systems that the runtime spec (`config-linux.md`) promises to every Linux container, and cgroups to look at. */
export const systemMounts: readonly RuntimeMount[] = [
  { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
  {
    destination: "/dev",
    type: "tmpfs",
    source: "tmpfs",
    options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
  },
  {
    destination: "/dev/pts",
    type: "devpts",
    source: "devpts",
    options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
  },
  {
    destination: "/dev/shm",
    type: "tmpfs",
    source: "shm",
    options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
  },
  { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
  {
    destination: "/sys/fs/cgroup",
    type: "cgroup",
    source: "cgroup",
    options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
  },
];

const maskedPaths = [
  ...["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"],
  ...["/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
];
const readonlyPaths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/**
 * Makes a runtime configuration of an image's config, by the OCI image spec's `conversion.md`. Rlimits are left as the caller of
 * the runtime has them: raising one takes privileges that runtimes do not always have. Throws `usage` when there is
 * nothing to run, `corrupt` for a volume or a variable that cannot be.
 */
export function convertToRuntimeConfig(conversion: Conversion): RuntimeConfig {
  const { settings, user, readOnly, terminal } = conversion;
  // Who is not root keeps no capability, but may get one from a file, up to the bounding set.
  const held = user.uid === 0 ? capabilities : [];
  return {
    ociVersion: "1.0.2",
    process: {
      terminal,
      user,
      args: argsOf(conversion),
      env: environmentOf(settings, terminal),
      cwd: posix.resolve("/", settings.workingDir),
      capabilities: { bounding: capabilities, effective: held, permitted: held },
      noNewPrivileges: false,
    },
    root: { path: "rootfs", readonly: readOnly },
    hostname: "ocifs",
    mounts: [...systemMounts, ...volumeMounts(conversion)],
    annotations: annotationsOf(settings),
    linux: {
      // Only what the runtime itself makes in /dev, as with every engine.
      resources: { devices: [{ allow: false, access: "rwm" }] },
      namespaces: ["pid", "network", "ipc", "uts", "mount"].map((type) => ({ type })),
      maskedPaths,
      readonlyPaths,
    },
  };
}

function argsOf({ settings, entrypoint, args }: Conversion): readonly string[] {
  const command = args.length > 0 || entrypoint !== undefined ? args : settings.cmd;
  const all = [...(entrypoint ?? settings.entrypoint), ...command];
  if (all.length === 0) {
    throw new OcifsError("usage", "the image's config names nothing to run; give a command behind --");
  }
  return all;
}

function environmentOf({ env }: RunSettings, terminal: boolean): string[] {
  const names = new Set<string>();
  for (const variable of env) {
    const equals = variable.indexOf("=");
    if (equals < 1 || variable.includes("\0")) {
      throw new OcifsError("corrupt", `config.Env: ${JSON.stringify(variable.slice(0, 80))}; want NAME=VALUE`);
    }
    names.add(variable.slice(0, equals));
  }
  const added = [defaultPath, ...(terminal ? ["TERM=xterm"] : [])];
  return [...env, ...added.filter((variable) => !names.has(variable.slice(0, variable.indexOf("="))))];
}

/** A volume in another one has to be mounted after it. */
export function volumesOf(settings: RunSettings): string[] {
  const paths = settings.volumes.map((path) => {
    const clean = posix.normalize(path).replace(/(.)\/$/, "$1");
    if (!path.startsWith("/") || clean === "/" || path.includes("\0")) {
      throw new OcifsError(
        "corrupt",
        `config.Volumes: ${JSON.stringify(path.slice(0, 80))}; want an absolute path below /`,
      );
    }
    return clean;
  });
  return [...new Set(paths)].sort();
}

function volumeMounts({ settings, volumePath }: Conversion): RuntimeMount[] {
  return volumesOf(settings).map((destination, number) => ({
    destination,
    type: "bind",
    source: volumePath(number),
    options: ["rbind", "rw", "rprivate"],
  }));
}

/** Annotations by `conversion.md`; where a label has the same key, the label's value counts. */
function annotationsOf(settings: RunSettings): Record<string, string> {
  const known: readonly (readonly [string, string | undefined])[] = [
    ["os", settings.os],
    ["architecture", settings.architecture],
    ["variant", settings.variant],
    ["os.version", settings.osVersion],
    ["os.features", settings.osFeatures.join(",")],
    ["author", settings.author],
    ["created", settings.created],
    ["stopSignal", settings.stopSignal],
    ["exposedPorts", settings.exposedPorts.join(",")],
  ];
  const own = known.flatMap(([key, value]) =>
    value === undefined || value === "" ? [] : [[`org.opencontainers.image.${key}`, value] as const],
  );
  return Object.fromEntries([...own, ...settings.labels]);
}
