import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as delay } from "node:timers/promises";
import { Cleanup } from "../../src/base/cleanup.js";
import { callAllDaemons } from "../../src/daemon/control.js";
import type { DaemonStatus, MountStatus } from "../../src/daemon/status.js";
import { createLayerIndex } from "../../src/index/create.js";
import { runCommand } from "../bench/command.js";
import { mountProgram, ocifsProgram, unmount } from "../bench/mounts.js";
import { memoryBlob } from "../support/blob-sources.js";
import type { Layer, Shape } from "./content.js";

/** What is asked to end does so well within this. */
const END_DEADLINE_MS = 30_000;

export interface StageOptions {
  readonly name: string;
  readonly seconds: number;
  /** The form that `scripts/test` runs. */
  readonly short: boolean;
  readonly driver: string;
  /** Where it works: a directory of its own is made in there. */
  readonly directory: string;
  readonly readerProgram: string;
  readonly signal: AbortSignal;
  readonly say: (message: string) => void;
}

/** What reader.c tells at its end, and what it wrote to standard error. */
export interface ReaderResult {
  readonly reads: number;
  readonly bytes: number;
  readonly wrong: number;
  readonly slowestMs: number;
  readonly slowestErrorMs: number;
  /** By the errno's name. */
  readonly errors: Readonly<Record<string, number>>;
  readonly stderr: string;
}

export interface MountOptions {
  readonly cacheDirectory?: string;
  /** More words for `-o`. */
  readonly words?: readonly string[];
}

export interface Reader {
  readonly child: ChildProcess;
  readonly result: Promise<ReaderResult>;
}

/** One torture's directory, mounts and readers. Everything goes when it is disposed, also what was killed. */
export class Stage implements AsyncDisposable {
  readonly seconds: number;
  readonly short: boolean;
  readonly driver: string;
  readonly signal: AbortSignal;
  readonly say: (message: string) => void;
  readonly directory: string;
  readonly #o: StageOptions;
  readonly #cleanup = new Cleanup();
  readonly #readers = new Set<ChildProcess>();
  readonly #mountpoints = new Set<string>();

  private constructor(options: StageOptions, directory: string) {
    this.#o = options;
    this.directory = directory;
    this.seconds = options.seconds;
    this.short = options.short;
    this.driver = options.driver;
    this.signal = options.signal;
    this.say = options.say;
  }

  static async open(options: StageOptions): Promise<Stage> {
    const directory = await mkdtemp(join(options.directory, `${options.name}-`));
    const stage = new Stage(options, directory);
    await mkdir(stage.#runtime, { mode: 0o700 });
    return stage;
  }

  get #runtime(): string {
    return join(this.directory, "run");
  }

  get #env(): NodeJS.ProcessEnv {
    return { PATH: process.env.PATH, HOME: this.directory, LC_ALL: "C", OCIFS_RUNTIME_DIR: this.#runtime };
  }

  get cacheDirectory(): string {
    return join(this.directory, "cache");
  }

  /** Closed before the directory goes, after the mounts went. */
  defer(action: () => void | Promise<void>): void {
    this.#cleanup.defer(action);
  }

  /** Makes a layer's index; the words that mount it with that. */
  async index(layer: Layer): Promise<readonly string[]> {
    const stem = join(this.directory, `index-${layer.shape.seed}`);
    const paths = { tarindexPath: `${stem}.tarindex`, zinfoPath: `${stem}.zinfo`, jsonPath: `${stem}.json` };
    await createLayerIndex({ source: memoryBlob(layer.gz), output: paths, spanSizeBytes: 256 << 10 });
    return ["oci.layer=0", `oci.tarindex=${paths.tarindexPath}`, `oci.zinfo=${paths.zinfoPath}`];
  }

  /** mount.ocifs as a user runs it; the mountpoint. */
  async mount(reference: string, name: string, options: MountOptions = {}): Promise<string> {
    const mountpoint = join(this.directory, name);
    await mkdir(mountpoint, { recursive: true });
    this.#mountpoints.add(mountpoint);
    const { cacheDirectory = this.cacheDirectory, words = [] } = options;
    const all = ["oci.insecure", `driver=${this.driver}`, `cachedir=${cacheDirectory}`, ...words].join(",");
    await runCommand(process.execPath, [mountProgram, reference, mountpoint, "-o", all], {
      env: this.#env,
      signal: this.signal,
      stderrPath: join(this.directory, "mount.log"),
    });
    return mountpoint;
  }

  /** `ocifs daemon`, which serves the mounts that are made from now on; its pid, and that of the process to be ended with it. */
  async startDaemon(): Promise<{ readonly pid: number; readonly stop: () => Promise<void> }> {
    const child = spawn(process.execPath, [ocifsProgram, "daemon"], { env: this.#env, stdio: "ignore" });
    const exited = once(child, "exit");
    let pid: number | undefined;
    await until("ocifs daemon does not answer", async () => {
      const { answers } = await callAllDaemons(this.#runtime, "status");
      pid = (answers as DaemonStatus[]).find(({ shared }) => shared)?.pid;
      return pid !== undefined;
    });
    const stop = async () => {
      child.kill("SIGTERM");
      await exited;
    };
    return { pid: pid ?? 0, stop };
  }

  /** Every mount that a daemon of ours knows; a daemon that is just dying or starting says nothing. */
  async statuses(): Promise<MountStatus[]> {
    const { answers } = await callAllDaemons(this.#runtime, "status");
    return (answers as DaemonStatus[]).flatMap(({ mounts }) => mounts);
  }

  /** Undefined while nobody answers for it. */
  async status(mountpoint: string): Promise<MountStatus | undefined> {
    return (await this.statuses()).find((each) => each.mountpoint === mountpoint);
  }

  /** Waits until no daemon knows the mount any more. */
  async unmount(mountpoint: string): Promise<void> {
    await unmount(mountpoint);
    this.#mountpoints.delete(mountpoint);
    await until(`${mountpoint} is still in ocifs status`, async () => (await this.status(mountpoint)) === undefined);
  }

  /** For mounts that their daemon takes away when it ends. */
  forget(mountpoints: readonly string[]): void {
    for (const mountpoint of mountpoints) this.#mountpoints.delete(mountpoint);
  }

  async ocifs(...args: readonly string[]): Promise<string> {
    const { stdout } = await runCommand(process.execPath, [ocifsProgram, ...args], {
      env: this.#env,
      signal: this.signal,
    });
    return stdout;
  }

  startReader(mountpoint: string, shape: Shape, seconds: number, order: number): Reader {
    const { seed, files, fileBytes } = shape;
    const args = [mountpoint, seed, files, fileBytes, seconds, order].map(String);
    const child = spawn(this.#o.readerProgram, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#readers.add(child);
    const result = Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]).then(
      ([stdout, stderr, [code, by]]) => {
        this.#readers.delete(child);
        if (code !== 0) throw new Error(`reader of ${mountpoint}: ${by ?? `exit code ${code}`}: ${stderr}`);
        return { ...(JSON.parse(stdout) as Omit<ReaderResult, "stderr">), stderr };
      },
    );
    // Who waits for it hears of a failure; a reader that was killed on purpose nobody waits for.
    result.catch(() => undefined);
    return { child, result };
  }

  /** Sums of `count` readers that run for the torture's time. */
  async read(mountpoint: string, shape: Shape, count: number, seconds = this.seconds): Promise<ReaderResult> {
    const readers = Array.from({ length: count }, (_, order) =>
      this.startReader(mountpoint, shape, seconds, order + 1),
    );
    return sum(await Promise.all(readers.map(({ result }) => result)));
  }

  /** Processes that were started for this stage's mounts, whatever they are: they all have its runtime directory. */
  async processes(): Promise<number[]> {
    const found: number[] = [];
    for (const name of await readdir("/proc")) {
      const pid = Number(name);
      if (!(pid > 0)) continue;
      // A process that ends meanwhile, or is dead and not reaped, has none.
      const environment = await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "");
      if (environment.includes(`OCIFS_RUNTIME_DIR=${this.#runtime}\0`)) found.push(pid);
    }
    return found;
  }

  /** What should not be there once all is unmounted, in words. */
  async leftovers(): Promise<string[]> {
    const left: string[] = [];
    await until("", async () => (await this.processes()).length === 0).catch(async () => {
      left.push(`processes ${(await this.processes()).join(", ")}`);
    });
    const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").map((line) => line.split(" ")[4] ?? "");
    left.push(...mounts.filter((path) => path.startsWith(`${this.directory}/mnt`)).map((path) => `mount ${path}`));
    left.push(...(await readdir(this.#runtime)).map((name) => `${name} in the runtime directory`));
    const cached = await readdir(this.cacheDirectory, { recursive: true }).catch(() => []);
    const temporary = cached.filter((path) => /(^|\/)\.|\.tmp$|\.part$/.test(path));
    left.push(...temporary.map((path) => `temporary file ${path}`));
    return left;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const reader of this.#readers) reader.kill("SIGKILL");
    for (const mountpoint of this.#mountpoints) await unmount(mountpoint);
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const pids = await this.processes();
      for (const pid of pids) signalIfThere(pid, signal);
      await until("", async () => (await this.processes()).length === 0, 5000).catch(() => undefined);
    }
    await this.#cleanup[Symbol.asyncDispose]();
    await rm(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }

  /** For files that a torture makes; relative to its directory. */
  async write(name: string, bytes: Uint8Array): Promise<string> {
    const path = join(this.directory, name);
    await writeFile(path, bytes);
    return path;
  }
}

function signalIfThere(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Looks again and again: much of what is waited for here tells nobody. */
export async function until(
  otherwise: string,
  condition: () => Promise<boolean>,
  deadlineMs = END_DEADLINE_MS,
): Promise<void> {
  for (const end = Date.now() + deadlineMs; !(await condition()); await delay(50)) {
    if (Date.now() > end) throw new Error(`after ${deadlineMs} ms ${otherwise}`);
  }
}

export function sum(results: readonly ReaderResult[]): ReaderResult {
  const errors: Record<string, number> = {};
  for (const result of results) {
    for (const [name, count] of Object.entries(result.errors)) errors[name] = (errors[name] ?? 0) + count;
  }
  const total = (key: "reads" | "bytes" | "wrong") => results.reduce((all, each) => all + each[key], 0);
  const most = (key: "slowestMs" | "slowestErrorMs") => Math.max(0, ...results.map((each) => each[key]));
  return {
    reads: total("reads"),
    bytes: total("bytes"),
    wrong: total("wrong"),
    slowestMs: most("slowestMs"),
    slowestErrorMs: most("slowestErrorMs"),
    errors,
    stderr: results.map(({ stderr }) => stderr).join(""),
  };
}
