import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError, type OcifsErrorCode } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { askForTagOf } from "../image/tag-answer.js";
import { daemonProgram, keeperProgram } from "./keeper.js";
import type { MountConfig, ProgressMessage, Readiness } from "./mount-config.js";
import { daemonLogPath, openRuntimeDirectory } from "./runtime-directory.js";

/** Of what a crashed daemon said, in the message about it. */
const LAST_WORDS_CHARACTERS = 500;

/**
 * Starts a daemon for one mount in the background and waits until the mount answers or cannot be made; then this process
 * may end. What went wrong is thrown as the daemon's own OcifsError. An aborted wait ends the daemon. `onBuildProgress` is
 * called while the daemon builds indexes.
 */
export async function launchDaemon(
  config: MountConfig,
  signal: AbortSignal,
  onBuildProgress: (progress: BuildProgress) => void,
): Promise<Readiness & { ok: true }> {
  await using log = await DaemonLog.open(config);
  const child = spawn(keeperProgram(), daemonProgram(), {
    detached: true,
    cwd: "/",
    // Nothing of the caller's: a daemon that kept his standard error open would keep `mount.ocifs 2>&1 | cat` waiting.
    stdio: ["pipe", "ignore", log.fd, "pipe"],
  });
  const asking = new AbortController();
  const onAbort = () => child.kill("SIGTERM");
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    const said = readReadiness(child.stdio[3] as Readable, onBuildProgress);
    const exited = new Promise<string>((resolve, reject) => {
      child.once("error", (cause) =>
        reject(new OcifsError("io", `cannot start the daemon: ${cause.message}`, { cause })),
      );
      child.once("exit", (code, by) => resolve(by ?? `exit code ${code}`));
    });
    // A daemon that dies at once closes the pipe under us; its exit tells more.
    child.stdin?.on("error", () => undefined);
    // Before the daemon knows what to do, so that it finds its log in place.
    if (child.pid !== undefined) await log.belongTo(child.pid);
    child.stdin?.write(`${JSON.stringify(config)}\n`);
    // The daemon takes a while to start, on another processor; the registry can be asked meanwhile.
    const asked = askForTagOf(config, asking.signal).then((answer) => child.stdin?.end(JSON.stringify(answer ?? null)));
    const readiness = await Promise.race([said, exited.then(() => said)]);
    asking.abort();
    await asked;
    if (readiness === undefined) {
      if (signal.aborted) throw new OcifsError("aborted", "mount: interrupted");
      const words = await log.lastWords();
      throw new OcifsError("internal", `the daemon ended before the mount was ready (${await exited})${words}`);
    }
    if (!readiness.ok) throw new OcifsError(readiness.code as OcifsErrorCode, readiness.message);
    log.keep();
    return readiness;
  } finally {
    asking.abort();
    signal.removeEventListener("abort", onAbort);
    (child.stdio[3] as Readable).destroy();
    child.unref();
  }
}

/** The file that becomes the daemon's standard error. It stays only if the daemon does. */
class DaemonLog implements AsyncDisposable {
  readonly #file: FileHandle;
  readonly #directory: string | undefined;
  #path: string;
  #kept = false;

  private constructor(file: FileHandle, path: string, directory: string | undefined) {
    this.#file = file;
    this.#path = path;
    this.#directory = directory;
  }

  static async open(config: MountConfig): Promise<DaemonLog> {
    const { path } = config.log;
    const directory = path === undefined ? await openRuntimeDirectory() : undefined;
    const wanted = path ?? join(directory ?? "", `starting-${randomUUID()}.log`);
    try {
      await ensureDirectory(dirname(wanted));
      return new DaemonLog(await open(wanted, "a", 0o600), wanted, directory);
    } catch (cause) {
      throw new OcifsError("io", `log ${wanted}: ${messageOf(cause)}`, { cause });
    }
  }

  get fd(): number {
    return this.#file.fd;
  }

  async belongTo(pid: number): Promise<void> {
    if (this.#directory === undefined) return;
    const path = daemonLogPath(this.#directory, pid);
    await rename(this.#path, path);
    this.#path = path;
  }

  /** How a daemon that crashed took leave, as the end of a sentence. */
  async lastWords(): Promise<string> {
    // The log may be one that others write too, of any size.
    await using file = await open(this.#path, "r");
    const { size } = await file.stat();
    const end = Buffer.alloc(4 * LAST_WORDS_CHARACTERS);
    const { bytesRead } = await file.read(end, 0, end.length, Math.max(0, size - end.length));
    const text = end.toString("utf8", 0, bytesRead).trim();
    return text === "" ? "" : `: ${text.slice(-LAST_WORDS_CHARACTERS)}`;
  }

  keep(): void {
    this.#kept = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    if (!this.#kept && this.#directory !== undefined) await rm(this.#path, { force: true });
  }
}

/** The daemon's last word, or undefined when it ends without one. Throws `limit`. */
export async function readReadiness(
  pipe: Readable,
  onBuildProgress: (progress: BuildProgress) => void,
): Promise<Readiness | undefined> {
  let text = "";
  pipe.setEncoding("utf8");
  for await (const chunk of pipe) {
    const lines = `${text}${chunk}`.split("\n");
    text = lines.pop() ?? "";
    for (const line of lines) {
      const message = JSON.parse(line) as Readiness | ProgressMessage;
      if (!("progress" in message)) return message;
      onBuildProgress(message.progress);
    }
    if (text.length > limits.readinessBytes) {
      throw new OcifsError("limit", `the daemon said more than ${limits.readinessBytes} characters in one message`);
    }
  }
  return undefined;
}
