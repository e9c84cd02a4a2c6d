import assert from "node:assert/strict";
import { test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import {
  type CommandContext,
  defineCommand,
  jsonOption,
  listCommand,
  readCredentials,
  registryOptions,
} from "../../src/cli/command.js";
import { runOcifs } from "../../src/cli/frame.js";

async function* input(...chunks: string[]): AsyncGenerator<Uint8Array> {
  for (const chunk of chunks) yield Buffer.from(chunk);
}

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const seen: unknown[] = [];
const list = defineCommand({
  builder: (yargs) =>
    jsonOption(registryOptions(yargs))
      .positional("image", { type: "string", demandOption: true })
      .positional("path", { type: "string" }),
  run: async (args, context) => {
    seen.push([args.image, args.path, args.json, args.insecure, args.username, args.platform, args.cachedir]);
    context.stdout.write("listed\n");
  },
});

function failing(error: unknown): ReturnType<typeof defineCommand> {
  return defineCommand({
    builder: (yargs) => yargs,
    run: async () => {
      throw error;
    },
  });
}

async function run(argv: string[], error: unknown = undefined, env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  let stdout = "";
  let stderr = "";
  const context: CommandContext = {
    stdout: { write: (text) => (stdout += text) },
    writeBytes: async (bytes) => {
      stdout += Buffer.from(bytes).toString("latin1");
    },
    stderr: { write: (text) => (stderr += text) },
    stdin: input(),
    signal: new AbortController().signal,
  };
  const code = await runOcifs(
    argv,
    [
      listCommand("list <image> [path]", "List something", async () => list),
      listCommand("fail", "Fail", async () => failing(error)),
    ],
    context,
    env,
  );
  return { code, stdout, stderr };
}

test("arguments reach the command as typed values", async () => {
  seen.length = 0;
  assert.deepEqual(await run(["list", "img"]), { code: 0, stdout: "listed\n", stderr: "" });
  await run("list img /etc --json --insecure --username u --platform linux/arm64 --cachedir c".split(" "));
  assert.deepEqual(seen, [
    ["img", undefined, false, false, undefined, undefined, undefined],
    ["img", "/etc", true, true, "u", "linux/arm64", "c"],
  ]);
});

test("help and version go to standard output with exit code 0", async () => {
  const help = await run(["--help"]);
  assert.equal(help.code, 0);
  assert.match(help.stdout, /ocifs list <image> \[path\] +List something/);
  assert.equal(help.stderr, "");
  assert.match((await run(["list", "--help"])).stdout, /--password-stdin/);
  assert.match((await run(["--version"])).stdout, /^\d+\.\d+\.\d+\n$/);
  assert.match((await run(["-V"])).stdout, /^\d+\.\d+\.\d+\n$/);
});

test("usage errors are one sentence on standard error with exit code 2", async () => {
  for (const [argv, pattern] of [
    [[], /no command given/],
    [["lits", "img"], /Did you mean list\?/],
    [["nothing-like-it"], /nothing-like-it/],
    [["list"], /[Nn]ot enough/],
    [["list", "img", "path", "extra"], /extra/],
    [["list", "img", "--jsn"], /jsn/],
    [["list", "img", "--username"], /username/],
  ] as const) {
    const outcome = await run([...argv]);
    assert.equal(outcome.code, 2, `${argv.join(" ")}: ${outcome.stderr}`);
    assert.match(outcome.stderr, pattern);
    assert.match(outcome.stderr, /^ocifs: [^\n]+\n$/, argv.join(" "));
    assert.equal(outcome.stdout, "");
  }
});

test("a command's error is one sentence without a stack, its code decides the exit code", async () => {
  const notFound = await run(["fail"], new OcifsError("not-found", "layer 7: the image has 3 layers;\n  give 0 to 2"));
  assert.deepEqual(notFound, { code: 1, stdout: "", stderr: "ocifs: layer 7: the image has 3 layers; give 0 to 2\n" });
  assert.equal((await run(["fail"], new OcifsError("usage", "x"))).code, 2);
  assert.equal((await run(["fail"], new OcifsError("aborted", "x"))).code, 130);
});

test("a bug of ours is called one", async () => {
  for (const bug of [new TypeError("x is not a function"), new OcifsError("internal", "x is not a function")]) {
    const outcome = await run(["fail"], bug);
    assert.equal(outcome.code, 1);
    assert.match(outcome.stderr, /^ocifs: internal error: x is not a function; .*OCIFS_DEBUG=1[^\n]*\n$/);
  }
  assert.equal((await run(["fail"], "text")).code, 1);
});

test("OCIFS_DEBUG=1 shows the stack and the causes", async () => {
  const error = new OcifsError("network", "fetch failed", { cause: new Error("connection reset") });
  const { stderr } = await run(["fail"], error, { OCIFS_DEBUG: "1" });
  assert.match(stderr, /OcifsError: fetch failed\n +at /);
  assert.match(stderr, /caused by: Error: connection reset\n +at /);
});

test("the password comes from standard input, without its line end", async () => {
  const given = { username: "u", "password-stdin": true };
  assert.deepEqual(await readCredentials(given, { stdin: input("pa", "ss word\r\n") }), {
    username: "u",
    password: "pass word",
  });
  assert.deepEqual(await readCredentials(given, { stdin: input("a\n\n") }), { username: "u", password: "a\n" });
  assert.equal(await readCredentials({ username: undefined, "password-stdin": false }, { stdin: input() }), undefined);
  await assert.rejects(readCredentials(given, { stdin: input("\n") }), /empty/);
  await assert.rejects(readCredentials({ username: "u", "password-stdin": false }, { stdin: input() }), /go together/);
  await assert.rejects(
    readCredentials({ username: undefined, "password-stdin": true }, { stdin: input() }),
    /go together/,
  );
  await assert.rejects(readCredentials(given, { stdin: input("x".repeat(40_000), "x".repeat(40_000)) }), {
    code: "limit",
  });
});
