import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { MountStatus } from "../../src/daemon/status.js";
import type { IndexPaths } from "../../src/index/files.js";
import { repositoryRoot } from "../support/fixtures.js";
import { type CommandOptions, runCommand } from "./command.js";

/** A daemon that has been asked to end does so at once; one that does not within this hangs. */
const EXIT_DEADLINE_MS = 20_000;

export const ocifsProgram = join(repositoryRoot, "dist", "src", "cli", "ocifs.js");
export const mountProgram = join(repositoryRoot, "dist", "src", "cli", "mount-ocifs.js");

export interface LayerMountRequest {
  readonly reference: string;
  /** Of its first layer, which is then mounted alone; without it the image is mounted whole. */
  readonly index?: IndexPaths;
  readonly cacheDirectory: string;
  readonly directory: string;
  /** More words of mount options. */
  readonly options?: readonly string[];
  /** For the standard error of helper and daemon. */
  readonly logPath: string;
}

/** Memory of a process as /proc/PID/status has it: now, and at its peak. */
export interface ProcessMemory {
  readonly rssBytes: number;
  readonly peakRssBytes: number;
}

/** One layer mounted by mount.ocifs, its daemon in the background. */
export class LayerMount implements AsyncDisposable {
  readonly directory: string;
  readonly pid: number;
  readonly #options: CommandOptions;
  readonly #cacheDirectory: string;

  private constructor(request: LayerMountRequest, pid: number, options: CommandOptions) {
    this.directory = request.directory;
    this.#cacheDirectory = request.cacheDirectory;
    this.pid = pid;
    this.#options = options;
  }

  /** `onMounted` runs as soon as mount.ocifs has returned. */
  static async make(
    request: LayerMountRequest,
    options: CommandOptions,
    onMounted?: () => Promise<void>,
  ): Promise<LayerMount> {
    await runCommand(process.execPath, mountArguments(request), { ...options, stderrPath: request.logPath });
    try {
      await onMounted?.();
      const { pid } = await statusOf(request.directory, options);
      return new LayerMount(request, pid, options);
    } catch (error) {
      await unmount(request.directory);
      throw error;
    }
  }

  status(): Promise<MountStatus> {
    return statusOf(this.directory, this.#options);
  }

  /** The file in the cache that holds the uncompressed layer, as far as it was read. */
  async dataFile(): Promise<string> {
    const blobs = join(this.#cacheDirectory, "blobs", "sha256");
    const paths: string[] = [];
    for (const hex of await readdir(blobs)) {
      for (const name of await readdir(join(blobs, hex))) {
        if (/^data-[0-9a-f]+$/.test(name)) paths.push(join(blobs, hex, name));
      }
    }
    const [path] = paths;
    if (path === undefined || paths.length > 1) throw new Error(`${blobs}: ${paths.length} data files, want one`);
    return path;
  }

  memory(): Promise<ProcessMemory> {
    return memoryOf(this.pid);
  }

  /** Unmounts and waits for the daemon's end, so that nobody writes to the cache any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    await unmount(this.directory);
    await processGone(this.pid);
  }
}

function mountArguments(request: LayerMountRequest): string[] {
  const { reference, index, cacheDirectory, directory } = request;
  const words =
    index === undefined ? [] : ["oci.layer=0", `oci.tarindex=${index.tarindexPath}`, `oci.zinfo=${index.zinfoPath}`];
  const options = ["oci.insecure", `cachedir="${cacheDirectory}"`, ...(request.options ?? [])];
  return [mountProgram, reference, directory, ...words, "-o", options.join(",")];
}

async function statusOf(directory: string, options: CommandOptions): Promise<MountStatus> {
  const { stdout } = await runCommand(process.execPath, [ocifsProgram, "status", "--json"], options);
  const { mounts } = JSON.parse(stdout) as { mounts: MountStatus[] };
  const found = mounts.find((mount) => mount.mountpoint === directory);
  if (found === undefined) throw new Error(`ocifs status does not know the mount ${directory}`);
  return found;
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
