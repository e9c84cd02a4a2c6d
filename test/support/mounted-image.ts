import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import type { TestContext } from "node:test";
import { readMountTable } from "../../src/base/mount-table.js";
import type { MountStatus } from "../../src/daemon/status.js";
import { repositoryRoot } from "./fixtures.js";
import { runProgram } from "./process.js";

export interface Finished {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly stdin?: string | Uint8Array;
  /** A program that starts it, such as setpriv with its arguments. */
  readonly prefix?: readonly string[];
}

const programs = { "mount.ocifs": "mount-ocifs.js", ocifs: "ocifs.js" } as const;

/** The command line that starts one of our programs. */
export function programLine(name: keyof typeof programs): [string, string] {
  return [process.execPath, join(repositoryRoot, "dist", "src", "cli", programs[name])];
}

/** The same for the bundled form, which is the one that is installed; scripts/build makes it. */
export function bundledProgramLine(name: keyof typeof programs): [string, string] {
  return [process.execPath, join(repositoryRoot, "dist", "programs", "bin", programs[name])];
}

/** Runs a command to the end of its output, which is when nobody holds stdout or stderr open any more. */
export async function runCommand(command: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const [program = "", ...args] = [...(options.prefix ?? []), ...command];
  const child = spawn(program, args, {
    stdio: "pipe",
    env: { ...process.env, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  // Who does not read its input may leave before it was written.
  child.stdin.on("error", () => undefined);
  child.stdin.end(options.stdin ?? "");
  const [stdout, stderr, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
  return { status: status as number | null, stdout, stderr };
}

/** Resolves when a process that need not be a child of ours has ended. */
export async function processEnd(pid: number): Promise<void> {
  const wait = `
import os, select, sys
try:
    fd = os.pidfd_open(int(sys.argv[1]))
except ProcessLookupError:
    sys.exit()
poll = select.poll()
poll.register(fd, select.POLLIN)
poll.poll()
`;
  await runProgram("python3", ["-c", wait, String(pid)]);
}

/** Places for mounts of the real programs: runtime directory, cache, mountpoints. Everything in it ends with the test. */
export class MountSandbox {
  private constructor(
    readonly directory: string,
    readonly runtime: string,
    readonly cache: string,
  ) {}

  static async open(t: TestContext): Promise<MountSandbox> {
    const directory = await mkdtemp(join(tmpdir(), "ocifs-image-"));
    await chmod(directory, 0o755);
    const sandbox = new MountSandbox(directory, join(directory, "run"), join(directory, "cache"));
    t.after(() => sandbox.#close());
    return sandbox;
  }

  get env(): Record<string, string> {
    return { OCIFS_RUNTIME_DIR: this.runtime };
  }

  async mountpoint(name = "mnt"): Promise<string> {
    const path = join(this.directory, name);
    await mkdir(path, { recursive: true });
    return path;
  }

  /** mount.ocifs with these arguments, its cache in here unless they say otherwise. */
  async mount(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
    const cache = args.some((arg) => arg.includes("cachedir=")) ? [] : ["-o", `cachedir=${this.cache}`];
    const line = [...programLine("mount.ocifs"), ...args, ...cache];
    return await runCommand(line, { ...options, env: { ...this.env, ...options.env } });
  }

  /** The same, which has to succeed without a word. */
  async mounted(args: readonly string[], options: RunOptions = {}): Promise<void> {
    assert.deepEqual(await this.mount(args, options), { status: 0, stdout: "", stderr: "" });
  }

  /** The same for a mount that builds indexes: on a busy machine it says how far it is. */
  async mountedFirst(args: readonly string[], options: RunOptions = {}): Promise<void> {
    const { status, stderr } = await this.mount(args, options);
    assert.equal(status, 0, stderr);
    assert.match(stderr, /^(mount\.ocifs: (the index of .* building it|\d+% of .*|the index is built after .*)\n)*$/);
  }

  async ocifs(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
    return await runCommand([...programLine("ocifs"), ...args], { ...options, env: { ...this.env, ...options.env } });
  }

  /** What `ocifs status` says of one mount. */
  async status(mountpoint: string): Promise<MountStatus> {
    const { status, stdout, stderr } = await this.ocifs(["status", "--json"]);
    assert.equal(status, 0, stderr);
    const { mounts } = JSON.parse(stdout) as { mounts: MountStatus[] };
    return mounts.find((each) => each.mountpoint === mountpoint) ?? assert.fail(`no mount at ${mountpoint}: ${stdout}`);
  }

  /** umount(8), and the end of the daemon and its keeper. */
  async unmount(mountpoint: string): Promise<void> {
    const { pid, keeperPid } = await this.status(mountpoint);
    await runProgram("umount", [mountpoint]);
    await processEnd(pid);
    if (keeperPid !== null) await processEnd(keeperPid);
  }

  /** SIGKILL to keeper and daemon: all that a machine's end leaves of them is the mount. */
  async kill(mountpoint: string): Promise<void> {
    const { pid, keeperPid } = await this.status(mountpoint);
    const processes = keeperPid === null ? [pid] : [keeperPid, pid];
    for (const each of processes) process.kill(each, "SIGKILL");
    for (const each of processes) await processEnd(each);
  }

  /** Mountpoints in here that are in use, topmost last. */
  async mounts(): Promise<string[]> {
    const mounts = await readMountTable("self");
    return mounts.map(({ path }) => path).filter((path) => path.startsWith(`${this.directory}/`));
  }

  /** The daemons that have a log or a socket in the runtime directory; for one with a keeper, the keeper. */
  async daemons(): Promise<number[]> {
    const names = await readdir(this.runtime).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return [];
      throw error;
    });
    return [...new Set(names.map((name) => Number.parseInt(name, 10)).filter((pid) => pid > 0))];
  }

  async #close(): Promise<void> {
    const daemons = await this.daemons();
    for (const path of (await this.mounts()).reverse()) await runProgram("umount", ["-l", path]);
    for (const pid of daemons) {
      // Files that a failed test left open keep a detached mount's daemon alive.
      if (/^ocifs\0|daemon\/main\.js/.test(await this.#commandLine(pid))) process.kill(pid, "SIGTERM");
      await processEnd(pid);
    }
    await rm(this.directory, { recursive: true, force: true });
  }

  /** Empty when the process is gone; a pid may belong to somebody else by now. */
  async #commandLine(pid: number): Promise<string> {
    return await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "");
  }
}
