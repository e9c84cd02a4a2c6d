import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { repositoryRoot } from "./fixtures.js";

/** A string of bytes as it comes from Python, in Latin-1. */
export interface PythonBytes {
  readonly bytes: string;
}

interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly errno?: string;
  readonly trace?: string;
}

/**
 * Another process that makes system calls on a mount: Node has only a part of them, and must not wait in a thread of its own
 * pool for a mount that it serves itself. Code is Python with the helpers of syscalls.py; calls run side by side.
 */
export class Syscalls implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #next = 1;

  private constructor(child: ChildProcess) {
    this.#child = child;
    if (!child.stdout) throw new Error("syscalls.py has no stdout");
    createInterface({ input: child.stdout }).on("line", (line) => {
      const answer = JSON.parse(line) as Answer;
      this.#waiting.get(answer.id)?.(answer);
      this.#waiting.delete(answer.id);
    });
    child.once("exit", (code, by) => {
      for (const [id, settle] of this.#waiting) settle({ id, trace: `syscalls.py ended (${by ?? code})` });
      this.#waiting.clear();
    });
  }

  /** `prefix`: a program that starts it, such as setpriv with its arguments. */
  static async start(mountpoint: string, prefix: readonly string[] = []): Promise<Syscalls> {
    const [program = "", ...args] = [
      ...prefix,
      "python3",
      join(repositoryRoot, "test", "support", "syscalls.py"),
      mountpoint,
    ];
    const child = spawn(program, args, { cwd: "/", stdio: ["pipe", "pipe", "inherit"] });
    await once(child, "spawn");
    return new Syscalls(child);
  }

  get pid(): number {
    return this.#child.pid ?? assert.fail("syscalls.py has no pid");
  }

  /** The value of a Python expression, or of `result` after statements. Throws when it raises anything. */
  async run<T = unknown>(code: string): Promise<T> {
    const answer = await this.#send(code);
    assert.equal(answer.errno, undefined, `${code}: ${answer.errno}`);
    return answer.value as T;
  }

  /** The name of the errno that the code fails with. */
  async errno(code: string): Promise<string> {
    const { errno, value } = await this.#send(code);
    return errno ?? assert.fail(`${code}: gave ${JSON.stringify(value)}, want an errno`);
  }

  /** Ends it with SIGKILL, in whatever call it is, and waits until it is gone. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exit;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  async #send(code: string): Promise<Answer> {
    const id = this.#next++;
    const answer = new Promise<Answer>((resolve) => this.#waiting.set(id, resolve));
    this.#child.stdin?.write(`${JSON.stringify({ id, code })}\n`);
    const got = await answer;
    assert.equal(got.trace, undefined, `${code}\n${got.trace}`);
    return got;
  }
}
