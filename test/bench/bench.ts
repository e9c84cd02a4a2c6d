import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../../src/base/cleanup.js";
import { type IndexPaths, indexPathsIn } from "../../src/index/files.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { repositoryRoot } from "../support/fixtures.js";
import { pushImage, startRegistry, type TestRegistry } from "../support/registry.js";
import { type CommandOptions, type CommandResult, runCommand, runPipeline } from "./command.js";
import { type LayerFile, type LayerName, provideLayer } from "./layers.js";
import { isMounted, LayerMount, type LayerMountRequest, ocifsProgram, processGone, unmount } from "./mounts.js";

/** What tool.c prints of a reader. */
export interface ReadResult {
  readonly ns: number;
  readonly bytes: number;
  readonly hash: string;
}

/** What tool.c prints of a child. */
export interface RunResult {
  readonly ns: number;
  readonly peakRssBytes: number;
  readonly cpuNs: number;
}

export interface BenchOptions {
  /** Where layers are kept between runs, and where this run works: on a disk, not in memory. */
  readonly stateDirectory: string;
  readonly repeats: number;
  readonly signal: AbortSignal;
  readonly say: (message: string) => void;
}

/** What all workloads share: layers, their registry and indexes, mounts, the reader. Everything goes when it is disposed. */
export class Bench implements AsyncDisposable {
  readonly repeats: number;
  readonly say: (message: string) => void;
  readonly #work: string;
  readonly #stateDirectory: string;
  readonly #commands: CommandOptions;
  readonly #cleanup = new Cleanup();
  readonly #layers = new Map<LayerName, Promise<LayerFile>>();
  readonly #pushed = new Map<string, Promise<string>>();
  readonly #indexes = new Map<LayerName, Promise<IndexPaths>>();
  readonly #extracted = new Map<string, Promise<string>>();
  #registry: Promise<TestRegistry> | undefined;
  #count = 0;

  private constructor(options: BenchOptions, work: string) {
    this.repeats = options.repeats;
    this.say = options.say;
    this.#stateDirectory = options.stateDirectory;
    this.#work = work;
    this.#commands = {
      signal: options.signal,
      // Sockets and status of our own mounts only, and no credentials or settings of the user's.
      env: { PATH: process.env.PATH, HOME: work, LC_ALL: "C", OCIFS_RUNTIME_DIR: join(work, "run") },
    };
  }

  static async open(options: BenchOptions): Promise<Bench> {
    await mkdir(join(options.stateDirectory, "bench"), { recursive: true });
    const bench = new Bench(options, await mkdtemp(join(options.stateDirectory, "bench", "run-")));
    bench.#cleanup.defer(() => bench.#removeWork());
    try {
      await mkdir(join(bench.#work, "run"), { mode: 0o700 });
      const source = join(repositoryRoot, "test", "bench", "tool.c");
      await bench.run("cc", ["-O2", "-Wall", "-Wextra", "-pthread", "-o", bench.#tool, source]);
      return bench;
    } catch (error) {
      await bench[Symbol.asyncDispose]();
      throw error;
    }
  }

  get signal(): AbortSignal {
    return this.#commands.signal;
  }

  get commandOptions(): CommandOptions {
    return this.#commands;
  }

  get #tool(): string {
    return join(this.#work, "tool");
  }

  /** A new directory for one measurement; it goes with the bench at the latest. */
  async freshDirectory(name: string): Promise<string> {
    const path = join(this.#work, `${name}-${this.#count++}`);
    await mkdir(path);
    return path;
  }

  run(program: string, args: readonly string[]): Promise<CommandResult> {
    return runCommand(program, args, this.#commands);
  }

  pipeline(script: string, ...args: string[]): Promise<CommandResult> {
    return runPipeline(script, args, this.#commands);
  }

  /** Runs a program and tells its time and its peak memory. */
  async measure(program: string, args: readonly string[]): Promise<RunResult & { readonly stdout: string }> {
    const { stdout, extra } = await this.run(this.#tool, ["run", program, ...args]);
    return { ...(JSON.parse(extra) as RunResult), stdout };
  }

  measurePipeline(script: string, ...args: string[]): Promise<RunResult & { readonly stdout: string }> {
    return this.measure("bash", ["-c", `set -euo pipefail; ${script}`, "bash", ...args]);
  }

  /** Reads with tool.c. */
  async read(...args: (string | number)[]): Promise<ReadResult> {
    const { stdout } = await this.run(this.#tool, args.map(String));
    return JSON.parse(stdout) as ReadResult;
  }

  /** Writes dirty pages out and empties the kernel's caches of pages, names and inodes. */
  async dropCaches(): Promise<void> {
    await this.run("sync", []);
    await writeFile("/proc/sys/vm/drop_caches", "3");
  }

  /** Drops what the page cache holds of one file. */
  async forgetPages(path: string): Promise<void> {
    await this.run("dd", [`if=${path}`, "iflag=nocache", "count=0", "status=none"]);
  }

  layer(name: LayerName): Promise<LayerFile> {
    return once(this.#layers, name, async () => {
      this.say(`layer "${name}"`);
      return await provideLayer(this.#stateDirectory, name, this.signal);
    });
  }

  /** The reference of an image in the registry that has just this layer. */
  reference(name: LayerName): Promise<string> {
    return this.imageOf(name, [name]);
  }

  /** The reference of an image in the registry that has these layers, lowest first. */
  imageOf(repository: string, names: readonly LayerName[]): Promise<string> {
    return once(this.#pushed, repository, async () => {
      const layers = [];
      for (const name of names) {
        const { path, diffId } = await this.layer(name);
        layers.push({ path, diffId, mediaType: mediaTypes.ociLayerGzip });
      }
      this.#registry ??= this.#startRegistry();
      const { host } = await this.#registry;
      this.say(`push of "${repository}"`);
      await pushImage(host, { repository: `bench/${repository}`, tag: "latest", layers });
      return `${host}/bench/${repository}:latest`;
    });
  }

  /** The layer's index, made once. */
  index(name: LayerName): Promise<IndexPaths> {
    return once(this.#indexes, name, async () => {
      const { path, digest } = await this.layer(name);
      this.say(`index of layer "${name}"`);
      const directory = await this.freshDirectory("index");
      await this.run(process.execPath, [ocifsProgram, "index", "create", `file:${path}`, "-o", directory]);
      return indexPathsIn(directory, digest);
    });
  }

  /** A file of a layer as tar(1) extracts it: what every reader must find. */
  extracted(name: LayerName, path: string): Promise<string> {
    return once(this.#extracted, `${name} ${path}`, async () => {
      const directory = await this.freshDirectory("extracted");
      await this.run("tar", ["-xzf", (await this.layer(name)).path, "-C", directory, path]);
      return join(directory, path);
    });
  }

  /** A new directory that is unmounted at the end, should something still be mounted there. */
  async mountpoint(): Promise<string> {
    const directory = await this.freshDirectory("mnt");
    this.#cleanup.defer(() => unmount(directory));
    return directory;
  }

  /** How to mount the layer at a new mountpoint, with an empty cache unless one is given. */
  async mountRequest(name: LayerName, cacheDirectory?: string): Promise<LayerMountRequest> {
    return {
      reference: await this.reference(name),
      index: await this.index(name),
      cacheDirectory: cacheDirectory ?? (await this.freshDirectory("cache")),
      directory: await this.mountpoint(),
      logPath: join(this.#work, "mount.log"),
    };
  }

  /** How to mount a whole image for the first time on this machine. */
  async firstMountRequest(reference: string): Promise<LayerMountRequest> {
    return {
      reference,
      cacheDirectory: await this.freshDirectory("cache"),
      directory: await this.mountpoint(),
      logPath: join(this.#work, "mount.log"),
    };
  }

  async mount(name: LayerName, cacheDirectory?: string): Promise<LayerMount> {
    return await this.mountAs(await this.mountRequest(name, cacheDirectory));
  }

  /** `onMounted` runs as soon as mount.ocifs has returned. */
  mountAs(request: LayerMountRequest, onMounted?: () => Promise<void>): Promise<LayerMount> {
    return LayerMount.make(request, this.#commands, onMounted);
  }

  /** Requests for a layer's blob that the registry has answered: how many, and with how many bytes of body. */
  async servedBlob(name: LayerName): Promise<{ requests: number; bytes: number }> {
    const { digest } = await this.layer(name);
    const log = await readFile(this.#accessLog, "utf8");
    const found = { requests: 0, bytes: 0 };
    for (const line of log.split("\n")) {
      const fields = /"GET [^ ]*\/blobs\/(\S+) [^"]*" (\d{3}) (\d+)/.exec(line);
      if (fields?.[1] !== digest) continue;
      found.requests++;
      found.bytes += Number(fields[3]);
    }
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup[Symbol.asyncDispose]();
  }

  get #accessLog(): string {
    return join(this.#work, "access.log");
  }

  async #startRegistry(): Promise<TestRegistry> {
    const storageDir = join(this.#work, "registry");
    const registry = await startRegistry({ storageDir, accessLogPath: this.#accessLog });
    this.#cleanup.defer(() => registry.stop());
    return registry;
  }

  /** Never deletes what may still be a mount below. */
  async #removeWork(): Promise<void> {
    for (const name of await readdir(this.#work)) {
      const path = join(this.#work, name);
      if (await isMounted(path)) throw new Error(`${path} is still mounted; unmount it and remove ${this.#work}`);
    }
    // A daemon whose mount was cut short has no handle here, only its log and socket.
    for (const name of await readdir(join(this.#work, "run"))) await processGone(Number.parseInt(name, 10));
    await rm(this.#work, { recursive: true, force: true });
  }
}

/** Makes something at the first call for its key; all callers share it. */
function once<K, V>(made: Map<K, Promise<V>>, key: K, make: () => Promise<V>): Promise<V> {
  let promise = made.get(key);
  if (promise === undefined) {
    promise = make();
    made.set(key, promise);
  }
  return promise;
}
