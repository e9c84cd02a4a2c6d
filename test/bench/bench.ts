import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../../src/base/cleanup.js";
import { type IndexPaths, indexPathsIn } from "../../src/index/files.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { repositoryRoot } from "../support/fixtures.js";
import { pushImage, startRegistry, type TestRegistry } from "../support/registry.js";
import { type CommandOptions, type CommandResult, runCommand, runPipeline } from "./command.js";
import { KernelCaches } from "./kernel-caches.js";
import { deviceBytes } from "./layer-map.js";
import { type LayerFile, type LayerName, provideLayer } from "./layers.js";
import {
  type DaemonUse,
  isMounted,
  type MountRequest,
  OcifsMount,
  ocifsProgram,
  processGone,
  unmount,
} from "./mounts.js";
import { once } from "./once.js";
import { ProgramImage, programRepository } from "./program-image.js";
import { type LinkName, startShapedLink } from "./shaped-link.js";

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
  /** How ocifs gives its trees to the kernel. */
  readonly driver: string;
  readonly signal: AbortSignal;
  readonly say: (message: string) => void;
}

/** What all workloads share: layers, their registry and indexes, mounts, the reader. Everything goes when it is disposed. */
export class Bench implements AsyncDisposable {
  readonly repeats: number;
  readonly driver: string;
  /** What the daemons of all mounts used that have ended; a workload's are taken away when it is done. */
  readonly #daemons: DaemonUse[] = [];
  readonly say: (message: string) => void;
  readonly #work: string;
  readonly #stateDirectory: string;
  readonly #commands: CommandOptions;
  readonly #caches: KernelCaches;
  readonly #cleanup = new Cleanup();
  readonly #layers = new Map<LayerName, Promise<LayerFile>>();
  readonly #pushed = new Map<string, Promise<string>>();
  readonly #indexes = new Map<LayerName, Promise<IndexPaths>>();
  readonly #extracted = new Map<string, Promise<string>>();
  readonly #devices = new Map<LayerName, Promise<string>>();
  readonly #links = new Map<LinkName, Promise<string>>();
  #registry: Promise<TestRegistry> | undefined;
  #program: Promise<ProgramImage> | undefined;
  #libfuseServer: Promise<string> | undefined;
  #count = 0;

  private constructor(options: BenchOptions, work: string) {
    this.repeats = options.repeats;
    this.driver = options.driver;
    this.say = options.say;
    this.#stateDirectory = options.stateDirectory;
    this.#work = work;
    this.#caches = new KernelCaches({
      // The disk that we work on; sync(2) would wait for every other one as well.
      flush: () => this.run("sync", ["--file-system", work]),
      forgetFiles: (more) => this.run(this.#tool, ["forget", work, ...more]),
      say: options.say,
    });
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
      await bench.#compile("tool", []);
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

  /** A directory that outlives the run. */
  stateDirectory(name: string): string {
    return join(this.#stateDirectory, "bench", name);
  }

  get #tool(): string {
    return join(this.#work, "tool");
  }

  /** test/bench/libfuse-server.c, compiled with the system's libfuse 3. */
  libfuseServer(): Promise<string> {
    this.#libfuseServer ??= this.pipeline("pkg-config --cflags --libs fuse3").then(({ stdout }) =>
      this.#compile("libfuse-server", stdout.trim().split(/\s+/)),
    );
    return this.#libfuseServer;
  }

  async #compile(name: string, libraries: readonly string[]): Promise<string> {
    const program = join(this.#work, name);
    const source = join(repositoryRoot, "test", "bench", `${name}.c`);
    await this.run("cc", ["-O2", "-Wall", "-Wextra", "-pthread", "-o", program, source, ...libraries]);
    return program;
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

  /** Writes dirty pages out and empties the kernel's caches of pages, names and inodes. Name the mounts that are read next. */
  async dropCaches(...mounted: readonly string[]): Promise<void> {
    await this.#caches.empty(mounted);
  }

  /** How that is done here. */
  get cachesEmptied(): string {
    return this.#caches.how;
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
      const { host } = await this.registry();
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

  /** A file or directory of a layer as tar(1) extracts it, or all of it: what every reader must find. */
  extracted(name: LayerName, path = "."): Promise<string> {
    return once(this.#extracted, `${name} ${path}`, async () => {
      this.say(`extraction of ${path} of layer "${name}"`);
      const directory = await this.freshDirectory("extracted");
      const words = path === "." ? [] : [path];
      await this.run("tar", ["-xzf", (await this.layer(name)).path, "-C", directory, ...words]);
      return join(directory, path);
    });
  }

  /** The whole layer as a tar: what the kernel's EROFS takes as the device of the layer's index. */
  device(name: LayerName): Promise<string> {
    return once(this.#devices, name, async () => {
      const path = join(await this.freshDirectory("device"), "device");
      // EROFS counts the device in blocks, the tar's own end may be left out of them.
      const bytes = await deviceBytes(await this.index(name));
      await this.pipeline(
        'gunzip -c "$1" >"$2"; truncate -s ">$3" "$2"',
        (await this.layer(name)).path,
        path,
        String(bytes),
      );
      return path;
    });
  }

  /** A new directory that is unmounted at the end, should something still be mounted there. */
  async mountpoint(): Promise<string> {
    const directory = await this.freshDirectory("mnt");
    this.#cleanup.defer(() => unmount(directory));
    return directory;
  }

  /** How to mount the layer at a new mountpoint, with an empty cache unless one is given. */
  async mountRequest(name: LayerName, cacheDirectory?: string): Promise<MountRequest> {
    const [reference, index] = [await this.reference(name), await this.index(name)];
    return { ...(await this.#request(reference, cacheDirectory)), index };
  }

  /** How to mount a whole image, with an empty cache unless one is given. */
  imageRequest(reference: string, cacheDirectory?: string): Promise<MountRequest> {
    return this.#request(reference, cacheDirectory);
  }

  async mount(name: LayerName, cacheDirectory?: string): Promise<OcifsMount> {
    return await this.mountAs(await this.mountRequest(name, cacheDirectory));
  }

  /** `onMounted` runs as soon as mount.ocifs has returned. */
  mountAs(request: MountRequest, onMounted?: () => Promise<void>): Promise<OcifsMount> {
    return OcifsMount.make(request, this.#commands, onMounted);
  }

  /** The image with python3, in the registry. */
  program(): Promise<ProgramImage> {
    this.#program ??= ProgramImage.open(this);
    return this.#program;
  }

  /** How to mount it whole, over a link. */
  async programRequest(link: LinkName, cacheDirectory: string, options: readonly string[] = []): Promise<MountRequest> {
    const reference = `${await this.hostOver(link)}/${programRepository}:latest`;
    return { ...(await this.#request(reference, cacheDirectory)), options };
  }

  registry(): Promise<TestRegistry> {
    this.#registry ??= this.#startRegistry();
    return this.#registry;
  }

  /** HOST:PORT at which the registry is reached over that link. */
  hostOver(link: LinkName): Promise<string> {
    return once(this.#links, link, async () => {
      const { host } = await this.registry();
      if (link === "loopback") return host;
      return this.#cleanup.add(await startShapedLink(host)).host;
    });
  }

  /** What daemons used since the last call. */
  takeDaemonUse(): DaemonUse[] {
    return this.#daemons.splice(0);
  }

  /** Removes what a measurement left; what is still there at the end goes then. */
  async discard(...paths: readonly string[]): Promise<void> {
    for (const path of paths) await rm(path, { recursive: true, force: true });
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

  async #request(reference: string, cacheDirectory?: string): Promise<MountRequest> {
    return {
      reference,
      cacheDirectory: cacheDirectory ?? (await this.freshDirectory("cache")),
      directory: await this.mountpoint(),
      driver: this.driver,
      logPath: join(this.#work, `mount-${this.#count++}.log`),
      runtimeDirectory: join(this.#work, "run"),
      onEnd: (use) => this.#daemons.push(use),
    };
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
