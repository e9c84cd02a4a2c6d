import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { callAllDaemons } from "../../src/daemon/control.js";
import type { DaemonStatus, MountStatus } from "../../src/daemon/status.js";
import type { IndexPaths } from "../../src/index/files.js";
import { repositoryRoot } from "../support/fixtures.js";
import { type CommandOptions, runCommand } from "./command.js";

/** A daemon that has been asked to end does so at once; one that does not within this hangs. */
const EXIT_DEADLINE_MS = 20_000;

export const ocifsProgram = join(repositoryRoot, "dist", "programs", "bin", "ocifs.js");
export const mountProgram = join(repositoryRoot, "dist", "programs", "bin", "mount-ocifs.js");

export interface MountRequest {
  readonly reference: string;
  /** The one layer to mount and its index; without it the whole image, whose indexes are in the cache. */
  readonly index?: IndexPaths;
  readonly cacheDirectory: string;
  readonly directory: string;
  readonly driver: string;
  /** More words for `-o`. */
  readonly options?: readonly string[];
  /** For the standard error of helper and daemon. */
  readonly logPath: string;
  /** Where daemons have their sockets. */
  readonly runtimeDirectory: string;
  /** Told what the daemon has used, right before it ends. */
  readonly onEnd: (use: DaemonUse) => void;
}

/** Memory of a process as /proc/PID/status has it: now, and at its peak. */
export interface ProcessMemory {
  readonly rssBytes: number;
  readonly peakRssBytes: number;
}

/** What a daemon has used between its start and its unmount. */
export interface DaemonUse extends ProcessMemory {
  /** User and system time of all its threads. */
  readonly cpuMs: number;
}

/** What mount.ocifs has mounted, its daemon in the background. */
export class OcifsMount implements AsyncDisposable {
  readonly directory: string;
  readonly cacheDirectory: string;
  readonly pid: number;
  readonly #request: MountRequest;

  private constructor(request: MountRequest, pid: number) {
    this.directory = request.directory;
    this.cacheDirectory = request.cacheDirectory;
    this.pid = pid;
    this.#request = request;
  }

  /** `onMounted` runs as soon as mount.ocifs has returned. */
  static async make(
    request: MountRequest,
    options: CommandOptions,
    onMounted?: () => Promise<void>,
  ): Promise<OcifsMount> {
    await runCommand(process.execPath, mountArguments(request), { ...options, stderrPath: request.logPath });
    try {
      await onMounted?.();
      const { pid, driver } = await statusOf(request);
      if (driver !== request.driver) throw new Error(`${request.directory}: driver ${driver}, want ${request.driver}`);
      return new OcifsMount(request, pid);
    } catch (error) {
      await unmount(request.directory);
      throw error;
    }
  }

  status(): Promise<MountStatus> {
    return statusOf(this.#request);
  }

  /** The file in the cache that holds the uncompressed layer, as far as it was read. */
  async dataFile(): Promise<string> {
    const paths = await cacheFiles(this.cacheDirectory, "data-");
    const [path] = paths;
    if (path === undefined || paths.length > 1) {
      throw new Error(`${this.cacheDirectory}: ${paths.length} data files, want one`);
    }
    return path;
  }

  memory(): Promise<ProcessMemory> {
    return memoryOf(this.pid);
  }

  /** Unmounts and waits for the daemon's end, so that nobody writes to the cache any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#request.onEnd({ ...(await memoryOf(this.pid)), cpuMs: await cpuMsOf(this.pid) });
    } finally {
      await unmount(this.directory);
      await processGone(this.pid);
    }
  }
}

/** Files of all blobs in a cache whose names begin with `prefix`: `data-`, `spans-`. */
export async function cacheFiles(cacheDirectory: string, prefix: string): Promise<string[]> {
  const blobs = join(cacheDirectory, "blobs", "sha256");
  const paths: string[] = [];
  for (const hex of await readdir(blobs)) {
    for (const name of await readdir(join(blobs, hex))) {
      // Marks lie beside the files they belong to.
      if (name.startsWith(prefix) && !name.includes(".")) paths.push(join(blobs, hex, name));
    }
  }
  return paths;
}

function mountArguments(request: MountRequest): string[] {
  const { reference, index, cacheDirectory, directory, driver, options = [] } = request;
  const words = index ? ["oci.layer=0", `oci.tarindex=${index.tarindexPath}`, `oci.zinfo=${index.zinfoPath}`] : [];
  const more = ["oci.insecure", `driver=${driver}`, `cachedir="${cacheDirectory}"`, ...options];
  return [mountProgram, reference, directory, ...words, "-o", more.join(",")];
}

/** Asks the daemons themselves: a start of Node for each question would be measured too. */
async function statusOf({ runtimeDirectory, directory }: MountRequest): Promise<MountStatus> {
  const { answers, failures } = await callAllDaemons(runtimeDirectory, "status");
  const mounts = (answers as DaemonStatus[]).flatMap((daemon) => daemon.mounts);
  const found = mounts.find((mount) => mount.mountpoint === directory);
  if (found === undefined) throw failures[0] ?? new Error(`no daemon knows the mount ${directory}`);
  return found;
}

/**
 * User and system time of a process, threads that have ended included, in steps of 10 ms.
 * Clock ticks of /proc/PID/stat are hundredths of a second on every Linux that Node runs on (USER_HZ).
 */
export async function cpuMsOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  // The name, in brackets, may hold blanks; fields 14 and 15 are counted from before it.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

export async function memoryOf(pid: number): Promise<ProcessMemory> {
  const text = await readFile(`/proc/${pid}/status`, "utf8");
  const bytesOf = (name: string) => {
    const kib = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1];
    if (kib === undefined) throw new Error(`/proc/${pid}/status: no ${name}`);
    return Number(kib) * 1024;
  };
  return { rssBytes: bytesOf("VmRSS"), peakRssBytes: bytesOf("VmHWM") };
}

/** True while something is mounted at `directory`. */
export async function isMounted(directory: string): Promise<boolean> {
  const mounts = await readFile("/proc/self/mounts", "utf8");
  return mounts.split("\n").some((line) => line.split(" ")[1] === directory);
}

/** Unmounts; what is busy goes lazily. Nothing mounted is what was wanted. Works after an abort too. */
export async function unmount(directory: string): Promise<void> {
  const { signal } = new AbortController();
  if (!(await isMounted(directory))) return;
  try {
    await runCommand("umount", [directory], { signal });
  } catch {
    // Busy: a reader that was ended may still be on its way out.
    await runCommand("umount", ["--lazy", directory], { signal });
  }
}

/** Resolves when the process is gone. It is not our child, so the kernel tells nobody: look again and again. */
export async function processGone(pid: number): Promise<void> {
  const deadline = Date.now() + EXIT_DEADLINE_MS;
  for (;;) {
    try {
      process.kill(pid, 0);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ESRCH") return;
      throw error;
    }
    if (Date.now() > deadline) throw new Error(`process ${pid} still runs ${EXIT_DEADLINE_MS} ms after its unmount`);
    await delay(10);
  }
}
