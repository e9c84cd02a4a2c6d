import { lstat } from "node:fs/promises";
import { join } from "node:path";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError } from "../base/errors.js";

/** Where control sockets and logs of running daemons live; OCIFS_RUNTIME_DIR overrides it. */
export function runtimeDirectory(): string {
  const override = process.env.OCIFS_RUNTIME_DIR;
  if (override) return override;
  const uid = process.getuid?.() ?? 0;
  if (uid === 0) return "/run/ocifs";
  return process.env.XDG_RUNTIME_DIR ? join(process.env.XDG_RUNTIME_DIR, "ocifs") : `/tmp/ocifs-${uid}`;
}

/** Creates it for this user only. In /tmp somebody else may have been there first: then it is refused. */
export async function openRuntimeDirectory(): Promise<string> {
  const path = runtimeDirectory();
  try {
    await ensureDirectory(path, 0o700);
  } catch (cause) {
    throw new OcifsError("io", `runtime directory ${path}: ${messageOf(cause)}`, { cause });
  }
  const info = await lstat(path);
  if (!info.isDirectory() || info.uid !== process.getuid?.() || (info.mode & 0o022) !== 0) {
    throw new OcifsError("io", `${path}: want a directory of our own that nobody else can write to; remove it`);
  }
  return path;
}

/** The log of a background daemon that was given no other place for it; Node's own last words at a crash go there too. */
export function daemonLogPath(directory: string, pid: number): string {
  return join(directory, `${pid}.log`);
}
