import assert from "node:assert/strict";
import { fstatSync, openSync, writeSync } from "node:fs";
import { test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { readKeptMounts } from "../../src/daemon/kept-mounts.js";
import { openMemoryFile } from "../../src/native/sparse.js";

const digest = `sha256:${"0".repeat(64)}`;
const state = {
  stateVersion: 1,
  version: "0.1.0",
  config: { mountpoint: "/mnt", source: "file:/layer" },
  driver: "fuse",
  facts: { device: "0:42" },
  treeDigest: digest,
  mountedAt: "2026-01-01T00:00:00.000Z",
};

function memory(text: string): number {
  const fd = openMemoryFile(0);
  writeSync(fd, text);
  return fd;
}

const isOpen = (fd: number): boolean => {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
};

test("descriptors of several mounts are put together by their names", () => {
  const [a, b, c] = [1, 2, 3].map(() => openSync("/dev/null", "r"));
  const found = readKeptMounts([
    { name: "m1.fuse", fd: a as number },
    { name: "m2.fuse", fd: b as number },
    { name: "m1.clone1", fd: c as number },
    { name: "m1.state", fd: memory(JSON.stringify(state)) },
    { name: "m2.state", fd: memory(JSON.stringify({ ...state, manifestDigest: digest })) },
  ]);
  const [first, second] = found.map((each) => ("kept" in each ? each : assert.fail(String(each.error))));
  assert.deepEqual(first?.names, ["m1.fuse", "m1.clone1", "m1.state"]);
  assert.deepEqual(first?.kept.mount, { fds: { fuse: a, clone1: c }, facts: { device: "0:42" } });
  assert.equal(first?.kept.manifestDigest, undefined);
  assert.equal(second?.kept.manifestDigest, digest);
  assert.equal(second?.kept.config.mountpoint, "/mnt");
});

test("a mount without its state, or with one that makes no sense, is an error, and its descriptors are closed", () => {
  const cases: [string | undefined, string][] = [
    [undefined, "corrupt"],
    ["", "corrupt"],
    ["{", "corrupt"],
    [JSON.stringify({ ...state, treeDigest: "sha256:1" }), "usage"],
    [JSON.stringify({ ...state, stateVersion: 2 }), "unsupported"],
    [" ".repeat(limits.keptStateBytes + 1), "limit"],
  ];
  for (const [text, code] of cases) {
    const fuse = openSync("/dev/null", "r");
    const descriptors = [{ name: "m1.fuse", fd: fuse }];
    if (text !== undefined) descriptors.push({ name: "m1.state", fd: memory(text) });
    const [found, ...more] = readKeptMounts(descriptors);
    assert.ok(found && "error" in found, text);
    assert.equal(found.error.code, code, text?.slice(0, 100));
    assert.equal(more.length, 0);
    assert.equal(isOpen(fuse), false);
  }
});
