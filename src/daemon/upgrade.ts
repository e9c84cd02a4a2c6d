import { OcifsError } from "../base/errors.js";
import { notify } from "../native/notify.js";
import { keeperPid } from "./keeper.js";

/** What a keeper takes in one datagram, with room for the rest of the message (native/keeper/notify_socket.c). */
const PROGRAM_BYTES = 4096;

/** The wish of `ocifs upgrade`: that another program goes on with the mounts. */
export class Upgrade {
  /** Resolves when the keeper knows the program and this daemon should make room for it. */
  readonly wanted: Promise<void>;
  readonly #restarts: boolean;
  #isWanted = false;
  #want: () => void = () => undefined;
  readonly #checkKept: () => void;

  /**
   * `restarts`: a service manager other than the keeper starts this daemon again, under the same name, with what it kept. `checkKept` throws when
   * a mount would be lost by it.
   */
  constructor({ restarts, checkKept }: { readonly restarts: boolean; readonly checkKept: () => void }) {
    this.#restarts = restarts;
    this.#checkKept = checkKept;
    this.wanted = new Promise((resolve) => {
      this.#want = resolve;
    });
  }

  get isWanted(): boolean {
    return this.#isWanted;
  }

  /** `program`: absolute path and arguments of the daemon to be started next, by the keeper. */
  async prepare(params: unknown): Promise<{ readonly pid: number }> {
    const program = parseProgram(params);
    this.#checkKept();
    if (keeperPid() !== undefined) await notify(`X_OCIFS_PROGRAM=${program.join("\0")}`);
    else if (!this.#restarts) {
      throw new OcifsError("unsupported", "upgrade: this daemon has no keeper; restart its service instead");
    }
    // The answer goes out before this daemon does.
    setImmediate(() => {
      this.#isWanted = true;
      this.#want();
    });
    return { pid: process.pid };
  }
}

function parseProgram(params: unknown): string[] {
  const program: unknown = (params as { program?: unknown } | undefined)?.program;
  const words = Array.isArray(program) ? program.filter((word) => typeof word === "string") : [];
  const whole = Array.isArray(program) && words.length === program.length;
  if (!whole || !words[0]?.startsWith("/") || words.some((word) => word === "" || word.includes("\0"))) {
    throw new OcifsError("usage", "upgrade: want program, a list of words whose first is an absolute path");
  }
  if (Buffer.byteLength(words.join("\0")) > PROGRAM_BYTES) {
    throw new OcifsError("limit", `upgrade: a program of more than ${PROGRAM_BYTES} bytes`);
  }
  return words;
}
