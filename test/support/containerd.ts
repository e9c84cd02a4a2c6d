import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type Client, credentials, makeClientConstructor, type ServiceDefinition } from "@grpc/grpc-js";
import { fromJSON } from "@grpc/proto-loader";
import { type Finished, programLine, runCommand } from "./mounted-image.js";
import { runProgram } from "./process.js";

/** Of kubelet's image service (CRI v1) what makes a pull. */
const criApi = {
  nested: {
    runtime: {
      nested: {
        v1: {
          nested: {
            ImageSpec: { fields: { image: { type: "string", id: 1 } } },
            PullImageRequest: { fields: { image: { type: "ImageSpec", id: 1 } } },
            PullImageResponse: { fields: { image_ref: { type: "string", id: 1 } } },
            RemoveImageRequest: { fields: { image: { type: "ImageSpec", id: 1 } } },
            RemoveImageResponse: { fields: {} },
            ImageService: {
              methods: {
                PullImage: { requestType: "PullImageRequest", responseType: "PullImageResponse" },
                RemoveImage: { requestType: "RemoveImageRequest", responseType: "RemoveImageResponse" },
              },
            },
          },
        },
      },
    },
  },
};

/** containerd's namespace of what came through CRI. */
const CRI_NAMESPACE = "k8s.io";

export interface RunWhere {
  readonly snapshotter?: string;
  readonly namespace?: string;
}

export interface RunningContainer {
  readonly id: string;
  readonly process: ChildProcess;
  /** Resolves with the first line of its output. */
  readonly firstLine: Promise<string>;
  /** Resolves when it has ended, with all its output. */
  readonly end: Promise<{ status: number | null; stdout: string }>;
}

/** A containerd of its own with an ocifs snapshotter, everything below one temporary directory. */
export class ContainerdSandbox implements AsyncDisposable {
  readonly directory: string;
  readonly cache: string;
  readonly #insecure: readonly string[];
  #containerd: ChildProcess | undefined;
  #snapshotter: ChildProcess | undefined;
  #containers = 0;
  readonly #started: RunningContainer[] = [];

  private constructor(directory: string, insecure: readonly string[], cache: string) {
    this.directory = directory;
    this.#insecure = insecure;
    this.cache = cache;
  }

  /** `insecure`: registries that speak plain HTTP. */
  static async open(insecure: readonly string[], options: { readonly cache?: string; readonly parent?: string } = {}) {
    const directory = await mkdtemp(join(options.parent ?? tmpdir(), "ocifs-ctrd-"));
    await chmod(directory, 0o755);
    const sandbox = new ContainerdSandbox(directory, insecure, options.cache ?? join(directory, "cache"));
    try {
      await sandbox.startSnapshotter();
      await sandbox.startContainerd();
    } catch (error) {
      await sandbox[Symbol.asyncDispose]();
      throw error;
    }
    return sandbox;
  }

  get snapshotterRoot(): string {
    return join(this.directory, "snapshotter");
  }

  get snapshotterAddress(): string {
    return join(this.directory, "ocifs.sock");
  }

  get env(): Record<string, string> {
    return { OCIFS_RUNTIME_DIR: join(this.directory, "run") };
  }

  async startSnapshotter(): Promise<void> {
    const [node, program] = programLine("ocifs");
    const words = ["snapshotter", "--root", this.snapshotterRoot, "--address", this.snapshotterAddress];
    const insecure = this.#insecure.flatMap((host) => ["--insecure-registry", host]);
    const log = await open(this.logPath("snapshotter"), "a");
    const child = spawn(node, [program, ...words, ...insecure, "--cachedir", this.cache], {
      stdio: ["ignore", log.fd, log.fd],
      env: { ...process.env, ...this.env },
    });
    await log.close();
    this.#snapshotter = child;
    await this.#listens(this.snapshotterAddress, child, "snapshotter");
  }

  async startContainerd(): Promise<void> {
    const config = join(this.directory, "config.toml");
    await writeFile(config, this.#config());
    const log = await open(this.logPath("containerd"), "a");
    const child = spawn("containerd", ["-c", config], { stdio: ["ignore", log.fd, log.fd] });
    await log.close();
    this.#containerd = child;
    await this.#listens(this.address, child, "containerd");
  }

  /** Ends it and waits for its end. */
  async stopContainerd(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    await stopProcess(this.#containerd, signal);
    this.#containerd = undefined;
  }

  async stopSnapshotter(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    await stopProcess(this.#snapshotter, signal);
    this.#snapshotter = undefined;
  }

  logPath(name: "containerd" | "snapshotter"): string {
    return join(this.directory, `${name}.log`);
  }

  /** A pull through CRI with the snapshotter ocifs. */
  async pull(reference: string): Promise<void> {
    await this.#cri("PullImage", { image: { image: reference } });
  }

  /** `ocifs pull` into containerd's namespace `default`. */
  async ocifsPull(reference: string): Promise<Finished> {
    const words = ["pull", reference, "--address", this.address, "--cachedir", this.cache, "--insecure"];
    return await runCommand([...programLine("ocifs"), ...words], { env: this.env });
  }

  async removeImage(reference: string): Promise<void> {
    await this.#cri("RemoveImage", { image: { image: reference } });
  }

  async #cri(method: "PullImage" | "RemoveImage", request: object): Promise<void> {
    const definition = fromJSON(criApi as never, { keepCase: true })["runtime.v1.ImageService"] as ServiceDefinition;
    const Service = makeClientConstructor(definition, "ImageService");
    const client: Client = new Service(`unix:${this.address}`, credentials.createInsecure());
    try {
      await new Promise<void>((resolve, reject) => {
        const call = (client as unknown as Record<string, (request: object, done: (error: unknown) => void) => void>)[
          method
        ];
        call?.call(client, request, (error) => (error ? reject(error) : resolve()));
      });
    } finally {
      client.close();
    }
  }

  /** ctr in CRI's namespace, unless the arguments begin with another. */
  async ctr(...args: readonly string[]): Promise<Finished> {
    const namespace = args[0] === "--namespace" ? [] : ["--namespace", CRI_NAMESPACE];
    return await runCommand(["ctr", "--address", this.address, ...namespace, ...args]);
  }

  /** The same, which has to succeed. */
  async ctrOut(...args: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.ctr(...args);
    if (status !== 0) throw new Error(`ctr ${args.join(" ")}: ${status} ${stderr}`);
    return stdout;
  }

  /** `ocifs`, which has to succeed. */
  async ocifsOut(...args: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await runCommand([...programLine("ocifs"), ...args], { env: this.env });
    if (status !== 0) throw new Error(`ocifs ${args.join(" ")}: ${status} ${stderr}`);
    return stdout;
  }

  /** Starts a container and lets it run; CRI's namespace and the snapshotter ocifs unless others are named. */
  run(reference: string, command: readonly string[], where: RunWhere = {}): RunningContainer {
    // Of all containerds of a machine: runc keeps its state in one place.
    const id = `${basename(this.directory)}-${this.#containers++}`;
    const { snapshotter = "ocifs", namespace = CRI_NAMESPACE } = where;
    const words = ["--address", this.address, "--namespace", namespace, "run", "--rm", "--snapshotter", snapshotter];
    const process = spawn("ctr", [...words, reference, id, ...command], { stdio: ["pipe", "pipe", "inherit"] });
    let stdout = "";
    const firstLine = new Promise<string>((resolve, reject) => {
      process.stdout.setEncoding("utf8");
      process.stdout.on("data", (text: string) => {
        stdout += text;
        const end = stdout.indexOf("\n");
        if (end >= 0) resolve(stdout.slice(0, end));
      });
      process.once("close", () => reject(new Error(`container ${id} ended without a line: ${stdout}`)));
    });
    firstLine.catch(() => undefined);
    const end = once(process, "close").then(([status]) => ({ status: status as number | null, stdout }));
    const container = { id, process, firstLine, end };
    this.#started.push(container);
    return container;
  }

  /** Kills what runs in a container, and waits for the end of `ctr run`. */
  async kill(container: RunningContainer): Promise<void> {
    await this.ctr("task", "kill", "--signal", "SIGKILL", container.id);
    await container.end;
  }

  /** After a restart of the snapshotter: containerd waits a second before it connects again, and fails what is asked meanwhile. */
  async reconnected(): Promise<void> {
    while ((await this.ctr("snapshots", "--snapshotter", "ocifs", "usage")).status !== 0) await delay(20);
  }

  /** Mountpoints in here. */
  async mounts(): Promise<string[]> {
    const lines = (await readFile("/proc/self/mountinfo", "utf8")).split("\n");
    return lines.map((line) => line.split(" ")[4] ?? "").filter((path) => path.startsWith(`${this.directory}/`));
  }

  /** As a reboot does: the mounts are gone, and their daemons. */
  async unmountImages(): Promise<void> {
    for (const path of await this.mounts()) {
      if (path.startsWith(join(this.snapshotterRoot, "mounts"))) await runProgram("umount", [path]);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#containerd !== undefined) {
      // Also those whose `ctr run` lost its containerd.
      for (const namespace of [CRI_NAMESPACE, "default"]) {
        const tasks = ["--namespace", namespace, "tasks"];
        const ids = (await this.ctrOut(...tasks, "ls", "-q")).split("\n").filter((id) => id !== "");
        for (const id of ids) await this.ctr(...tasks, "rm", "--force", id);
      }
    }
    await Promise.all(this.#started.map(({ end }) => end));
    await this.stopContainerd();
    await this.stopSnapshotter();
    for (const path of (await this.mounts()).reverse()) await runProgram("umount", ["-l", path]);
    await rm(this.directory, { recursive: true, force: true, maxRetries: 10 });
  }

  get address(): string {
    return join(this.directory, "containerd.sock");
  }

  /** Waits for the socket to be there, which no event tells of a program that does not say so. */
  async #listens(path: string, child: ChildProcess, name: "containerd" | "snapshotter"): Promise<void> {
    for (;;) {
      if (child.exitCode !== null || child.signalCode !== null) {
        throw new Error(`${name} ended before it listened: ${await readFile(this.logPath(name), "utf8")}`);
      }
      const answers = await new Promise<boolean>((resolve) => {
        const socket = connect(path, () => resolve(true));
        socket.once("connect", () => socket.destroy());
        socket.once("error", () => resolve(false));
      });
      if (answers) return;
      await delay(20);
    }
  }

  #config(): string {
    const cri = `[plugins."io.containerd.grpc.v1.cri"`;
    return `version = 2
root = "${join(this.directory, "containerd")}"
state = "${join(this.directory, "state")}"
[grpc]
  address = "${this.address}"
[ttrpc]
  address = "${join(this.directory, "containerd.ttrpc")}"
[proxy_plugins.ocifs]
  type = "snapshot"
  address = "${this.snapshotterAddress}"
${cri}.containerd]
  snapshotter = "ocifs"
  disable_snapshot_annotations = false
${cri}.cni]
  conf_dir = "${join(this.directory, "cni")}"
[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.5
  schedule_delay = "0s"
  startup_delay = "0s"
`;
  }
}

async function stopProcess(child: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  child.kill(signal);
  await exit;
}

/** A statically linked program that says what it was asked and waits: all that an image needs. */
export async function buildTool(directory: string): Promise<string> {
  await mkdir(directory, { recursive: true });
  const source = join(directory, "tool.c");
  await writeFile(source, toolSource);
  const path = join(directory, "tool");
  await runProgram("gcc", ["-static", "-Os", "-s", "-o", path, source]);
  return path;
}

const toolSource = `#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
/* tool cat FILE: its bytes. tool serve FILE: after each byte of standard input the first line of FILE. */
static int show(const char *path) {
  char text[4096];
  int fd = open(path, O_RDONLY);
  if (fd < 0) { perror(path); return 1; }
  ssize_t got = read(fd, text, sizeof text);
  close(fd);
  return got < 0 || write(1, text, got) != got;
}
int main(int argc, char **argv) {
  char asked;
  if (argc == 4 && strcmp(argv[1], "write") == 0) {
    int fd = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, argv[3], strlen(argv[3])) < 0) { perror(argv[2]); return 1; }
    return show(argv[2]);
  }
  if (argc != 3) return 2;
  if (strcmp(argv[1], "cat") == 0) return show(argv[2]);
  if (show(argv[2])) return 1;
  while (read(0, &asked, 1) == 1) if (show(argv[2])) return 1;
  return 0;
}
`;
