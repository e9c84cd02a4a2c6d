import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Conversion, convertToRuntimeConfig } from "../../src/bundle/conversion.js";
import { parseRunSettings } from "../../src/bundle/run-settings.js";
import { resolveUser } from "../../src/bundle/users.js";
import { throwsWith } from "../support/errors.js";

const settingsOf = (config: object, rest: object = {}) =>
  parseRunSettings(Buffer.from(JSON.stringify({ os: "linux", architecture: "amd64", ...rest, config })), "config");
const root = { uid: 0, gid: 0, additionalGids: [] };
const convert = (config: object, more: Partial<Conversion> = {}, rest: object = {}) =>
  convertToRuntimeConfig({
    settings: settingsOf(config, rest),
    user: root,
    args: [],
    readOnly: false,
    terminal: false,
    volumePath: (number) => `v${number}`,
    ...more,
  });

test("verbatim fields: WorkingDir, Env, Entrypoint, Cmd", () => {
  const { process } = convert({ WorkingDir: "/srv", Env: ["A=1", "B=x=y", "C="], Entrypoint: ["/e", "1"], Cmd: ["2"] });
  assert.equal(process.cwd, "/srv");
  assert.deepEqual(process.args, ["/e", "1", "2"]);
  assert.deepEqual(process.env.slice(0, 3), ["A=1", "B=x=y", "C="]);
  assert.match(process.env[3] ?? "", /^PATH=/);
  assert.equal(process.env.length, 4);
});

test("a variable that the image has is not added; an empty config has defaults", () => {
  assert.deepEqual(convert({ Cmd: ["a"], Env: ["PATH=/x", "TERM=dumb"] }, { terminal: true }).process.env, [
    "PATH=/x",
    "TERM=dumb",
  ]);
  assert.equal(convert({ Cmd: ["a"] }).process.cwd, "/");
  assert.equal(convert({ Cmd: ["a"], WorkingDir: "x/../y" }).process.cwd, "/y");
  throwsWith(() => convert({ Cmd: null, Entrypoint: null }), "usage");
  throwsWith(() => convert({ Cmd: ["a"], Env: ["=x"] }), "corrupt");
});

test("arguments replace the command, an entrypoint both", () => {
  const image = { Entrypoint: ["/e"], Cmd: ["c"] };
  assert.deepEqual(convert(image, { args: ["x"] }).process.args, ["/e", "x"]);
  assert.deepEqual(convert(image, { entrypoint: ["/f"] }).process.args, ["/f"]);
  assert.deepEqual(convert(image, { entrypoint: [], args: ["x", "y"] }).process.args, ["x", "y"]);
});

test("annotations: the spec's table, where a label of the same key counts", () => {
  const rest = {
    author: "me",
    created: "2024-01-01T00:00:00Z",
    variant: "v8",
    "os.version": "1",
    "os.features": ["a", "b"],
  };
  const image = {
    Cmd: ["a"],
    StopSignal: "SIGINT",
    ExposedPorts: { "80/tcp": {}, "53/udp": {} },
    Labels: { mine: "x", "org.opencontainers.image.author": "label" },
  };
  const prefix = "org.opencontainers.image.";
  assert.deepEqual(convert(image, {}, rest).annotations, {
    [`${prefix}os`]: "linux",
    [`${prefix}architecture`]: "amd64",
    [`${prefix}variant`]: "v8",
    [`${prefix}os.version`]: "1",
    [`${prefix}os.features`]: "a,b",
    [`${prefix}author`]: "label",
    [`${prefix}created`]: "2024-01-01T00:00:00Z",
    [`${prefix}stopSignal`]: "SIGINT",
    [`${prefix}exposedPorts`]: "80/tcp,53/udp",
    mine: "x",
  });
});

test("volumes become mounts, outer ones first", () => {
  const mounts = convert({ Cmd: ["a"], Volumes: { "/b/c/": {}, "/b": {}, "/a": {} } }).mounts.filter(
    ({ type }) => type === "bind",
  );
  assert.deepEqual(
    mounts.map(({ destination, source }) => [destination, source]),
    [
      ["/a", "v0"],
      ["/b", "v1"],
      ["/b/c", "v2"],
    ],
  );
  for (const path of ["/", "x", "/..", "/a\0"])
    throwsWith(() => convert({ Cmd: ["a"], Volumes: { [path]: {} } }), "corrupt");
});

test("rlimits are left alone; capabilities are root's", () => {
  const config = convert({ Cmd: ["a"] });
  assert.equal("rlimits" in config.process, false);
  assert.ok((config.process.capabilities.effective?.length ?? 0) > 0);
  assert.deepEqual(convert({ Cmd: ["a"] }, { user: { ...root, uid: 1 } }).process.capabilities.effective, []);
  assert.deepEqual(convert({ Cmd: ["a"] }, { readOnly: true }).root, { path: "rootfs", readonly: true });
});

const passwd = "root:x:0:0::/root:/bin/sh\nbroken\napp:x:1000:1001::/srv:/bin/sh\nbad:x:-1:1::\n";
const group = "root:x:0:\nwheel:x:27:app,other\napp:x:1001:app\nlog:x:44: app \nbad:x:x:app\n";

test("users: by name with all groups, by number, with a group", () => {
  const cases: [string, number, number, number[]][] = [
    ["", 0, 0, []],
    ["root", 0, 0, []],
    ["app", 1000, 1001, [27, 44]],
    ["1000", 1000, 1001, [27, 44]],
    ["app:wheel", 1000, 27, []],
    ["app:5", 1000, 5, []],
    ["7", 7, 0, []],
    ["7:8", 7, 8, []],
    [":8", 0, 8, []],
    ["app:", 1000, 1001, [27, 44]],
  ];
  for (const [user, uid, gid, additionalGids] of cases) {
    assert.deepEqual(resolveUser(user, passwd, group), { uid, gid, additionalGids }, user);
  }
  assert.deepEqual(resolveUser("5", "", ""), { uid: 5, gid: 0, additionalGids: [] });
  assert.match(throwsWith(() => resolveUser("nobody", passwd, group), "not-found").message, /nobody.*passwd/);
  assert.match(throwsWith(() => resolveUser("app:no", passwd, group), "not-found").message, /"no".*group/);
  assert.match(throwsWith(() => resolveUser("bad", passwd, group), "not-found").message, /bad/);
  throwsWith(() => resolveUser("4294967295", passwd, group), "corrupt");
});

test("any text of users gives ids in range or an error of ours", () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.string(), (user, people, groups) => {
      try {
        const { uid, gid, additionalGids } = resolveUser(user, people, groups);
        for (const id of [uid, gid, ...additionalGids]) assert.ok(id >= 0 && id < 0xffffffff);
      } catch (error) {
        assert.ok(["not-found", "corrupt"].includes((error as { code?: string }).code ?? ""));
      }
    }),
  );
});

test("settings that do not parse, or are too many, are refused", () => {
  throwsWith(() => settingsOf({ Env: "A=1" }), "corrupt");
  throwsWith(() => settingsOf({ Env: [1] }), "corrupt");
  throwsWith(() => settingsOf({ Cmd: new Array(4097).fill("x") }), "limit");
  const many = Object.fromEntries(Array.from({ length: 4097 }, (_, at) => [`/${at}`, {}]));
  throwsWith(() => settingsOf({ Volumes: many }), "limit");
});
