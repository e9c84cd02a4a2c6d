import { spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { OcifsError, type OcifsErrorCode } from "../base/errors.js";
import type { MountConfig, Readiness } from "./mount-config.js";

/** One JSON line with a sentence or two in it. */
const READINESS_BYTES = 64 << 10;

/**
 * Starts a daemon for one mount in the background and waits until the mount answers or cannot be made; then this process
 * may end. What went wrong is thrown as the daemon's own OcifsError. An aborted wait ends the daemon.
 */
export async function launchDaemon(config: MountConfig, signal: AbortSignal): Promise<Readiness & { ok: true }> {
  const child = spawn(process.execPath, [fileURLToPath(new URL("./main.js", import.meta.url))], {
    detached: true,
    cwd: "/",
    // The log, not these, is where a daemon speaks; what Node itself says at a crash still goes somewhere.
    stdio: ["pipe", "ignore", "inherit", "pipe"],
  });
  const onAbort = () => child.kill("SIGTERM");
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    const said = readReadiness(child.stdio[3] as Readable);
    const exited = new Promise<string>((resolve, reject) => {
      child.once("error", (cause) =>
        reject(new OcifsError("io", `cannot start the daemon: ${cause.message}`, { cause })),
      );
      child.once("exit", (code, by) => resolve(by ?? `exit code ${code}`));
    });
    // A daemon that dies at once closes the pipe under us; its exit tells more.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(JSON.stringify(config));
    const readiness = await Promise.race([said, exited.then(() => said)]);
    if (readiness === undefined) {
      if (signal.aborted) throw new OcifsError("aborted", "mount: interrupted");
      throw new OcifsError("internal", `the daemon ended before the mount was ready (${await exited})`);
    }
    if (!readiness.ok) throw new OcifsError(readiness.code as OcifsErrorCode, readiness.message);
    return readiness;
  } finally {
    signal.removeEventListener("abort", onAbort);
    (child.stdio[3] as Readable).destroy();
    child.unref();
  }
}

async function readReadiness(pipe: Readable): Promise<Readiness | undefined> {
  let text = "";
  for await (const chunk of pipe) {
    text += chunk;
    if (text.includes("\n") || text.length > READINESS_BYTES) break;
  }
  const line = text.split("\n", 1)[0];
  return line ? (JSON.parse(line) as Readiness) : undefined;
}
