import { type ChildProcess, spawn } from "node:child_process";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { asString, parseJsonObject } from "../oci/json.js";
import { Credential } from "./credential.js";

export interface HelperOptions {
  readonly signal?: AbortSignal | undefined;
  readonly env?: NodeJS.ProcessEnv;
  /** Default `limits.credentialHelperMs`. */
  readonly timeoutMs?: number;
}

/**
 * Asks `docker-credential-<name> get`, which takes the server's address on stdin and answers JSON on stdout
 * (docker-credential-helpers). The user `<token>` marks an identity token. undefined when the helper has nothing for the
 * server. Its output is never quoted. Throws `io`, `timeout`, `limit`, `corrupt`, `aborted`; `usage` for a bad name.
 */
export async function askHelper(
  name: string,
  server: string,
  options: HelperOptions = {},
): Promise<Credential | undefined> {
  const program = `docker-credential-${name}`;
  const what = `credential helper ${program} for ${server}`;
  // A name with a slash would run a program from anywhere.
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) {
    throw new OcifsError(
      "usage",
      `credential helper ${JSON.stringify(name)}: want a name of letters, digits, . _ and -`,
    );
  }
  const { output, exitCode } = await run(program, server, what, options);
  if (exitCode !== 0) {
    if (/credentials not found/i.test(output.toString("utf8"))) return undefined;
    throw new OcifsError("io", `${what}: exited with ${exitCode ?? "a signal"}; run "${program} get" to see why`);
  }
  const answer = parseJsonObject(output, what);
  const username = asString(answer.Username, `${what}: Username`);
  const secret = asString(answer.Secret, `${what}: Secret`);
  if (secret === "") return undefined;
  return username === "<token>" ? Credential.identityToken(secret) : Credential.basic(username, secret);
}

interface HelperResult {
  readonly output: Buffer;
  readonly exitCode: number | null;
}

function run(program: string, input: string, what: string, options: HelperOptions): Promise<HelperResult> {
  const { signal, env = process.env, timeoutMs = limits.credentialHelperMs } = options;
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(new OcifsError("aborted", `${what}: cancelled`, { cause: signal.reason }));
    const child: ChildProcess = spawn(program, ["get"], { env, stdio: ["pipe", "pipe", "ignore"] });
    const chunks: Buffer[] = [];
    let sizeBytes = 0;

    const finish = (settle: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      settle();
    };
    const fail = (error: OcifsError) =>
      finish(() => {
        child.kill("SIGKILL");
        // A grandchild may hold the pipe open; nothing more is wanted from it.
        child.stdout?.destroy();
        reject(error);
      });
    const onAbort = () => fail(new OcifsError("aborted", `${what}: cancelled`, { cause: signal?.reason }));
    const timer = setTimeout(() => fail(new OcifsError("timeout", `${what}: no answer in ${timeoutMs} ms`)), timeoutMs);
    signal?.addEventListener("abort", onAbort, { once: true });

    child.stdout?.on("data", (chunk: Buffer) => {
      sizeBytes += chunk.length;
      if (sizeBytes > limits.credentialHelperBytes) {
        fail(new OcifsError("limit", `${what}: more than ${limits.credentialHelperBytes} bytes of output`));
      } else chunks.push(chunk);
    });
    child.on("error", (cause) => {
      const hint = "code" in cause && cause.code === "ENOENT" ? "it is not in PATH" : messageOf(cause);
      fail(new OcifsError("io", `${what}: cannot run: ${hint}`, { cause }));
    });
    child.on("close", (exitCode) => finish(() => resolve({ output: Buffer.concat(chunks), exitCode })));
    // A helper that exits without reading its input is judged by its exit code, not by the broken pipe.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(input);
  });
}
