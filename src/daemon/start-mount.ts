import { OcifsError } from "../base/errors.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { handOver, type Ready } from "./handover-client.js";
import { launchDaemon } from "./launch.js";
import type { MountConfig } from "./mount-config.js";

/** Which daemon serves a mount: the shared one, one of its own, or the shared one if it is there and takes it. */
export type DaemonChoice = "auto" | "shared" | "own";

/**
 * Has a mount made and served in the background and waits until it answers; then this process may end. What went wrong is thrown as the
 * daemon's own OcifsError; `unsupported` when the shared daemon was asked for and does not take the mount. An aborted wait leaves
 * nothing mounted. `onBuildProgress` is called while indexes are built.
 */
export async function startMount(
  config: MountConfig,
  daemon: DaemonChoice,
  signal: AbortSignal,
  onBuildProgress: (progress: BuildProgress) => void,
): Promise<Ready> {
  if (daemon !== "own") {
    const refused = needsOwnDaemon(config);
    const outcome = refused === undefined ? await handOver(config, signal, onBuildProgress) : { refused };
    if ("ready" in outcome) return outcome.ready;
    if (daemon === "shared") throw new OcifsError("unsupported", `daemon=shared: ${outcome.refused}`);
  }
  return await launchDaemon(config, signal, onBuildProgress);
}

/** What the shared daemon is never asked for. */
function needsOwnDaemon({ driver, log, metrics }: MountConfig): string | undefined {
  if (driver !== "auto" && driver !== "fuse") return `driver=${driver} needs a daemon of its own`;
  if (log.path !== undefined || log.level !== "info")
    return "log= is for a daemon of its own; the shared one has its own log";
  if (metrics !== undefined) return "metrics= is for a daemon of its own; the shared one has --metrics";
  return undefined;
}
