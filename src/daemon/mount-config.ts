import type { MountFlags, MountNamespace } from "../drivers/driver.js";
import type { BuildProgress } from "../image/build-indexes.js";
import type { Digest } from "../oci/digest.js";
import type { MetricsAddress } from "./metrics/address.js";

/**
 * Everything a daemon needs to know of one mount, as the mount helper hands it over (JSON through a pipe: it holds the
 * password, which must be in neither the command line nor the environment). Paths are absolute.
 */
export interface MountConfig {
  readonly source: string;
  readonly mountpoint: string;
  readonly layer?: number;
  readonly blob?: Digest;
  /** The lowest layers only, merged; all without it. */
  readonly layerCount?: number;
  readonly platform?: string;
  readonly username?: string;
  readonly password?: string;
  readonly insecure: boolean;
  readonly hostsDir?: string;
  readonly tarindex?: string;
  readonly zinfo?: string;
  readonly driver: "auto" | "fuse" | "erofs" | "fanotify" | "fuse-native";
  readonly cacheDir: string;
  readonly cacheSizeBytes?: number;
  readonly onError: "eio" | "retry";
  readonly timeoutMs: number;
  readonly prefetch: "none" | "idle" | "all";
  readonly prefetchBytesPerSecond?: number;
  readonly profile: "on" | "off";
  readonly verify: "blob" | "span" | "none";
  readonly allowOther: boolean;
  readonly flags: MountFlags;
  readonly securityOptions: readonly string[];
  /** Where the mountpoint is, if not in the mount namespace of the process that this was handed to. */
  readonly namespace?: MountNamespace;
  /** Where logins are looked for: the environment of who asked for the mount, when the daemon was not started by him. */
  readonly loginEnv?: Readonly<Record<string, string>>;
  /** Where metrics are offered over HTTP, by a daemon of the mount's own. */
  readonly metrics?: MetricsAddress;
  readonly log: { readonly level: "error" | "warn" | "info" | "debug"; readonly path?: string };
}

/** What the daemon says through the readiness pipe at last, one JSON line: the mount answers, or why there is none. */
export type Readiness =
  | { readonly ok: true; readonly pid: number; readonly driver: string; readonly warnings: readonly string[] }
  | { readonly ok: false; readonly code: string; readonly message: string };

/** What may come before that, any number of such lines: indexes are being built. */
export interface ProgressMessage {
  readonly progress: BuildProgress;
}
