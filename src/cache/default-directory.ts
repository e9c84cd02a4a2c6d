import { homedir } from "node:os";
import { join } from "node:path";

/** The default cache: system-wide for root, the user's own otherwise (XDG base directory specification). */
export function defaultCacheDirectory(): string {
  if (process.getuid?.() === 0) return "/var/cache/ocifs";
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "ocifs");
}
