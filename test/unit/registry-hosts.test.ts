import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { findRegistryHosts, type RegistryHosts } from "../../src/registry/registry-hosts.js";
import { rejectsWith } from "../support/errors.js";
import { tempDirectory } from "../support/temp.js";

async function place(t: TestContext, files: Readonly<Record<string, string>>): Promise<string> {
  const root = await tempDirectory(t);
  for (const [path, text] of Object.entries(files)) {
    await mkdir(join(root, path, ".."), { recursive: true });
    await writeFile(join(root, path), text);
  }
  return root;
}

async function read(t: TestContext, toml: string, more: Readonly<Record<string, string>> = {}): Promise<RegistryHosts> {
  const root = await place(t, { "registry.test/hosts.toml": toml, ...more });
  return (await findRegistryHosts("registry.test", { directory: root })) ?? assert.fail("nothing found");
}

test("a file with everything in it", async (t) => {
  const { mirrors, server } = await read(
    t,
    `
server = "https://upstream.test"
[host."https://first.test:5000"]
  capabilities = ["pull"]
  ca = ["a.pem", "b.pem"]
  client = [["c.pem", "k.pem"], ["both.pem", ""]]
  skip_verify = true
  dial_timeout = "1s"
  [host."https://first.test:5000".header]
    x-one = "1"
    X-Two = ["2", "3"]
[host."second.test/base"]
  client = "both.pem"
[host."http://third.test/path/v2/"]
  capabilities = ["resolve", "pull", "push"]
[host."https://fourth.test/only/this"]
  override_path = true
`,
    Object.fromEntries(["a", "b", "c", "k", "both"].map((name) => [`registry.test/${name}.pem`, `PEM ${name}`])),
  );
  assert.deepEqual(
    mirrors.map(({ url }) => url.href),
    [
      "https://first.test:5000/v2/",
      "https://second.test/base/v2/",
      "http://third.test/path/v2/",
      "https://fourth.test/only/this/",
    ],
  );
  const [first, second, third] = mirrors;
  assert.deepEqual([first?.pull, first?.resolve, second?.pull, second?.resolve], [true, false, true, true]);
  assert.deepEqual(first?.tls, {
    ca: ["PEM a", "PEM b"],
    client: [
      { cert: "PEM c", key: "PEM k" },
      { cert: "PEM both", key: "PEM both" },
    ],
    skipVerify: true,
  });
  assert.deepEqual(first?.headers, { "x-one": "1", "x-two": "2, 3" });
  assert.deepEqual(second?.tls.client, [{ cert: "PEM both", key: "PEM both" }]);
  assert.deepEqual(third?.tls, { ca: [], client: [], skipVerify: false });
  assert.equal(server?.url.href, "https://upstream.test/v2/");
});

test("what stands at the top is said of the registry, which needs no name", async (t) => {
  const { mirrors, server } = await read(t, 'skip_verify = true\ncapabilities = ["pull"]\n');
  assert.deepEqual(mirrors, []);
  assert.deepEqual(
    [server?.url.href, server?.tls.skipVerify, server?.resolve],
    ["https://registry.test/v2/", true, false],
  );
  const root = await place(t, { "docker.io/hosts.toml": "" });
  assert.equal(
    (await findRegistryHosts("docker.io", { directory: root }))?.server?.url.href,
    "https://registry-1.docker.io/v2/",
  );
});

test("files of certificates alone, as Docker has them", async (t) => {
  const root = await place(t, {
    "r.test:5000/z.crt": "PEM z",
    "r.test:5000/a.crt": "PEM a",
    "r.test:5000/me.cert": "PEM me",
    "r.test:5000/me.key": "PEM key",
    "empty.test/readme": "",
  });
  assert.deepEqual((await findRegistryHosts("r.test:5000", { directory: root }))?.server?.tls, {
    ca: ["PEM a", "PEM z"],
    client: [{ cert: "PEM me", key: "PEM key" }],
    skipVerify: false,
  });
  assert.equal(await findRegistryHosts("empty.test", { directory: root }), undefined);
});

test("the directory of a registry: with its port in both spellings, and one for all", async (t) => {
  const named = (name: string) => `[host."https://${name}.test"]`;
  const root = await place(t, {
    "r.test_5000_/hosts.toml": named("underscore"),
    "r.test:5000/hosts.toml": named("colon"),
    "other.test:5000/hosts.toml": named("other"),
    "_default/hosts.toml": named("default"),
  });
  const first = async (registry: string) =>
    (await findRegistryHosts(registry, { directory: root }))?.mirrors[0]?.url.hostname;
  assert.equal(await first("r.test:5000"), "underscore.test");
  assert.equal(await first("other.test:5000"), "other.test");
  assert.equal(await first("r.test"), "default.test");
  await rejectsWith(findRegistryHosts("r.test", { directory: join(root, "none") }), "not-found");
});

test("what makes no sense is an error that names file and key", async (t) => {
  for (const [toml, wanted] of [
    ["server = ", /registry\.test\/hosts\.toml/],
    ["server = 1", /server: want text/],
    ['host = "x"', /host: want a table/],
    ['[host]\n"a.test" = 1', /host\."a\.test": want a table/],
    ['[host."a.test"]\ncapabilities = ["fly"]', /host\."a\.test": capabilities: "fly" is unknown/],
    ['[host."a.test"]\ncapabilities = [1]', /capabilities: want text/],
    ['[host."a.test"]\nskip_verify = "yes"', /skip_verify: want true or false/],
    ['[host."a.test"]\nclient = [["a", "b", "c"]]', /client: want/],
    ['[host."a.test".header]\n"bad name" = "x"', /no header/],
    ['[host."a.test".header]\nx = "a\\nb"', /no header/],
    ['[host."https://user:secret@a.test"]', /without user/],
    ['[host."https://"]', /want the URL/],
  ] as const) {
    const error = await rejectsWith(read(t, toml), "usage");
    assert.match(error.message, wanted);
    assert.match(error.message, /registry\.test\/hosts\.toml/);
    assert.doesNotMatch(error.message, /secret/);
  }
  assert.match((await rejectsWith(read(t, '[host."a.test"]\nca = "none.pem"'), "io")).message, /none\.pem/);
});

test("files and mirrors have their limits", async (t) => {
  await rejectsWith(read(t, "#".repeat(limits.hostsFileBytes + 1)), "limit");
  const ca = { "registry.test/ca.pem": "x".repeat(limits.hostsFileBytes + 1) };
  await rejectsWith(read(t, 'ca = "ca.pem"', ca), "limit");
  const many = (count: number) => Array.from({ length: count }, (_, i) => `[host."m${i}.test"]`).join("\n");
  assert.equal((await read(t, many(limits.registryMirrors))).mirrors.length, limits.registryMirrors);
  await rejectsWith(read(t, many(limits.registryMirrors + 1)), "limit");
});
