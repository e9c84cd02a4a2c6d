import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { inspect } from "node:util";
import { limits } from "../../src/base/limits.js";
import { Credential } from "../../src/registry/credential.js";
import { askHelper } from "../../src/registry/credential-helper.js";
import { authFilePaths, findCredentials } from "../../src/registry/credentials.js";
import { rejectsWith, throwsWith } from "../support/errors.js";

const base64 = (text: string) => Buffer.from(text).toString("base64");
const shown = (credential: Credential | undefined) =>
  credential === undefined ? undefined : `${credential.kind} ${credential.username} ${credential.reveal()}`;

describe("a credential", () => {
  test("never prints its secret", () => {
    for (const credential of [Credential.basic("alice", "t0psecret"), Credential.identityToken("t0psecret")]) {
      const printed = [
        `${credential}`,
        String(credential),
        JSON.stringify({ credential }),
        inspect(credential, { showHidden: true, depth: 9 }),
        inspect({ nested: [credential] }),
        Object.values(credential).join(),
      ].join("\n");
      assert.doesNotMatch(printed, /t0psecret|dDBwc2VjcmV0/);
      assert.equal(credential.reveal(), "t0psecret");
    }
    assert.equal(Credential.basic("ü", "p:w").basicHeader(), `Basic ${base64("ü:p:w")}`);
  });
});

describe("credentials", () => {
  let directory = "";
  let env: NodeJS.ProcessEnv = {};
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "ocifs-auth-"));
    env = {
      PATH: `${join(directory, "bin")}${delimiter}${process.env.PATH}`,
      DOCKER_CONFIG: join(directory, "docker"),
    };
    env.XDG_RUNTIME_DIR = join(directory, "run");
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  async function write(path: string, content: unknown): Promise<void> {
    const full = join(directory, path);
    await mkdir(dirname(full), { recursive: true });
    await writeFile(full, typeof content === "string" ? content : JSON.stringify(content));
  }
  async function writeHelper(name: string, script: string): Promise<void> {
    await write(`bin/docker-credential-${name}`, `#!/bin/sh\n${script}\n`);
    await chmod(join(directory, "bin", `docker-credential-${name}`), 0o755);
  }
  const find = async (registry: string, repository = "a/b") =>
    shown(await findCredentials({ env, homeDirectory: join(directory, "home"), uid: 1 }).find(registry, repository));

  test("given ones win; half of them is usage", async () => {
    await write("docker/config.json", { auths: { "r.test": { auth: base64("bob:pw") } } });
    const given = findCredentials({ username: "alice", password: "", env });
    assert.equal(shown(await given.find("r.test", "a")), "basic alice ");
    throwsWith(() => findCredentials({ username: "alice" }), "usage");
    throwsWith(() => findCredentials({ password: "x" }), "usage");
  });

  test("none of the files is needed", async () => {
    assert.equal(await find("r.test"), undefined);
  });

  for (const [name, auths, registry, expected] of [
    ["auth", { "r.test": { auth: base64("bob:p:w") } }, "r.test", "basic bob p:w"],
    ["auth padded with NULs", { "r.test": { auth: base64("bob:pw\0\0") } }, "r.test", "basic bob pw"],
    ["username and password", { "r.test": { username: "bob", password: "pw" } }, "r.test", "basic bob pw"],
    ["identity token", { "r.test": { auth: base64("0:"), identitytoken: "tok" } }, "r.test", "identity-token  tok"],
    ["a port", { "r.test:5000": { auth: base64("bob:pw") } }, "r.test:5000", "basic bob pw"],
    ["another port", { "r.test:5001": { auth: base64("bob:pw") } }, "r.test:5000", undefined],
    ["a URL as key", { "https://R.test/v2/": { auth: base64("bob:pw") } }, "r.test", "basic bob pw"],
    ["an old key", { "r.test/v1/": { auth: base64("bob:pw") } }, "r.test", "basic bob pw"],
    ["Docker Hub's key", { "https://index.docker.io/v1/": { auth: base64("bob:pw") } }, "docker.io", "basic bob pw"],
    ["Podman's key of it", { "docker.io": { auth: base64("bob:pw") } }, "docker.io", "basic bob pw"],
    ["an empty entry", { "r.test": {} }, "r.test", undefined],
    ["a key that only begins alike", { "r.test.evil": { auth: base64("bob:pw") } }, "r.test", undefined],
  ] as const) {
    test(`config.json with ${name}`, async () => {
      await write("docker/config.json", { auths });
      assert.equal(await find(registry), expected);
    });
  }

  test("Podman's keys are looked up most specific first", async () => {
    const auths = {
      "r.test": { auth: base64("host:pw") },
      "r.test/team": { auth: base64("team:pw") },
      "r.test/team/app": { auth: base64("app:pw") },
    };
    await write("run/containers/auth.json", { auths });
    assert.equal(await find("r.test", "team/app"), "basic app pw");
    assert.equal(await find("r.test", "team/other"), "basic team pw");
    assert.equal(await find("r.test", "team/app/deep"), "basic app pw");
    assert.equal(await find("r.test", "teams"), "basic host pw");
  });

  test("files are asked in order; REGISTRY_AUTH_FILE goes first and must exist", async () => {
    await write("home/.config/containers/auth.json", { auths: { "r.test": { auth: base64("config:pw") } } });
    assert.equal(await find("r.test"), "basic config pw");
    await write("run/containers/auth.json", { auths: { "r.test": { auth: base64("run:pw") } } });
    assert.equal(await find("r.test"), "basic run pw");
    await write("docker/config.json", { auths: { "r.test": { auth: base64("docker:pw") } } });
    assert.equal(await find("r.test"), "basic docker pw");
    env.REGISTRY_AUTH_FILE = join(directory, "mine.json");
    await rejectsWith(find("r.test"), "not-found");
    await write("mine.json", { auths: { "r.test": { auth: base64("mine:pw") } } });
    assert.equal(await find("r.test"), "basic mine pw");
    assert.deepEqual(authFilePaths({}, "/home/u", 7), [
      "/home/u/.docker/config.json",
      "/run/containers/7/auth.json",
      "/home/u/.config/containers/auth.json",
    ]);
  });

  for (const [name, content] of [
    ["no JSON", '{"auths": {"r.test": {"auth": "t0psecret"'],
    ["auths of another type", { auths: "t0psecret" }],
    ["an entry of another type", { auths: { "r.test": "t0psecret" } }],
    ["auth of another type", { auths: { "r.test": { auth: { x: "t0psecret" } } } }],
    ["auth without a colon", { auths: { "r.test": { auth: base64("t0psecret") } } }],
  ] as const) {
    test(`a file with ${name} is corrupt, named and not quoted`, async () => {
      await write("docker/config.json", content);
      const error = await rejectsWith(find("r.test"), "corrupt");
      assert.ok(error.message.includes(join(directory, "docker/config.json")));
      assert.doesNotMatch(inspect(error), /t0psecret|dDBwc2VjcmV0/);
    });
  }

  test("a file that is too long is limit, a directory is io", async () => {
    await write("docker/config.json", Buffer.alloc(limits.dockerConfigBytes + 1, " ").toString());
    await rejectsWith(find("r.test"), "limit");
    env.DOCKER_CONFIG = directory;
    await mkdir(join(directory, "config.json"));
    await rejectsWith(find("r.test"), "io");
  });

  describe("from helpers", () => {
    const answer = (username: string, secret: string) =>
      `cat > "$0.stdin"; echo "$1" > "$0.args"; printf '%s' '${JSON.stringify({ ServerURL: "x", Username: username, Secret: secret })}'`;

    test("credHelpers wins over credsStore, which wins over auths", async () => {
      await writeHelper("one", answer("one", "pw1"));
      await writeHelper("store", answer("store", "pw2"));
      const auths = { "r.test": { auth: base64("file:pw") } };
      await write("docker/config.json", { auths, credsStore: "store", credHelpers: { "r.test": "one" } });
      assert.equal(await find("r.test"), "basic one pw1");
      assert.equal(await readFile(join(directory, "bin/docker-credential-one.stdin"), "utf8"), "r.test");
      assert.equal(await readFile(join(directory, "bin/docker-credential-one.args"), "utf8"), "get\n");
      assert.equal(await find("other.test"), "basic store pw2");
    });

    test("Docker Hub is asked for by its old URL, and <token> is an identity token", async () => {
      await writeHelper("hub", answer("<token>", "refresh"));
      await write("docker/config.json", { credHelpers: { "https://index.docker.io/v1/": "hub" } });
      assert.equal(await find("docker.io"), "identity-token  refresh");
      const stdin = await readFile(join(directory, "bin/docker-credential-hub.stdin"), "utf8");
      assert.equal(stdin, "https://index.docker.io/v1/");
    });

    test("one that has nothing leaves it to the file", async () => {
      await writeHelper("empty", "echo 'credentials not found in native keychain'; exit 1");
      await write("docker/config.json", { auths: { "r.test": { auth: base64("file:pw") } }, credsStore: "empty" });
      assert.equal(await find("r.test"), "basic file pw");
      assert.equal(await find("other.test"), undefined);
    });

    test("one that fails, is missing, answers nonsense or has a path for a name is an error that shows no output", async () => {
      await writeHelper("fails", "echo t0psecret; echo t0psecret >&2; exit 3");
      await writeHelper("nonsense", "echo t0psecret");
      await writeHelper("fields", `echo '{"Username": 5, "Secret": "t0psecret"}'`);
      await writeHelper("killed", "kill -9 $$");
      for (const [name, code] of [
        ["fails", "io"],
        ["killed", "io"],
        ["missing", "io"],
        ["nonsense", "corrupt"],
        ["fields", "corrupt"],
        ["../../bin/sh", "usage"],
        ["", "usage"],
      ] as const) {
        const error = await rejectsWith(askHelper(name, "r.test", { env }), code);
        assert.doesNotMatch(inspect(error), /t0psecret/, name);
      }
    });

    test("output without end is limit, silence is timeout, and an abort ends it", async () => {
      await writeHelper("floods", "exec yes t0psecret");
      await rejectsWith(askHelper("floods", "r.test", { env }), "limit");
      // The grandchild keeps stdout open after the helper is killed, and ends by itself.
      await writeHelper("hangs", "sleep 3 & wait");
      await rejectsWith(askHelper("hangs", "r.test", { env, timeoutMs: 100 }), "timeout");
      const controller = new AbortController();
      await writeHelper("waits", "exec cat /dev/zero > /dev/null");
      const asking = askHelper("waits", "r.test", { env, signal: controller.signal });
      controller.abort();
      await rejectsWith(asking, "aborted");
      await rejectsWith(askHelper("waits", "r.test", { env, signal: AbortSignal.abort() }), "aborted");
    });
  });
});
