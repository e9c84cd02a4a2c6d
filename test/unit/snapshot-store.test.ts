import assert from "node:assert/strict";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { silentLog } from "../../src/base/log.js";
import { SnapshotExistsError } from "../../src/snapshotter/snapshot-error.js";
import type { SnapshotRecord } from "../../src/snapshotter/snapshot-record.js";
import { SnapshotStore } from "../../src/snapshotter/snapshot-store.js";
import { rejectsWith } from "../support/errors.js";
import { lowerLimits } from "../support/lowered-limits.js";
import { tempDirectory } from "../support/temp.js";

const record = (id: string, name: string, more: Partial<SnapshotRecord> = {}): SnapshotRecord => ({
  id,
  name,
  parent: "",
  kind: "active",
  labels: {},
  createdMs: 1,
  updatedMs: 2,
  ...more,
});

const manifest = `sha256:${"a".repeat(64)}` as const;
const blob = `sha256:${"b".repeat(64)}` as const;
const lazy = { source: `registry.example/app@${manifest}`, manifest, layer: 0, layers: 2, blob };

test("a record has these bytes, and is read back from them", async (t) => {
  const directory = await tempDirectory(t);
  const store = await SnapshotStore.open(directory, silentLog);
  const whole = record("1", "chain", { kind: "committed", labels: { "a/b": "c" }, lazy });
  await store.create(whole);
  const golden =
    '{"version":1,"id":"1","name":"chain","parent":"","kind":"committed","labels":{"a/b":"c"},"createdMs":1,"updatedMs":2,' +
    `"lazy":{"source":"registry.example/app@${manifest}","manifest":"${manifest}","layer":0,"layers":2,"blob":"${blob}"}}\n`;
  assert.equal(await readFile(join(directory, "1.json"), "utf8"), golden);
  assert.deepEqual((await SnapshotStore.open(directory, silentLog)).all(), [whole]);
});

test("names are unique, parents are committed and stay while there are children", async (t) => {
  const directory = await tempDirectory(t);
  const store = await SnapshotStore.open(directory, silentLog);
  await store.create(record("1", "base"));
  await assert.rejects(store.create(record("2", "base")), SnapshotExistsError);
  await rejectsWith(store.create(record("2", "child", { parent: "base" })), "usage");
  await rejectsWith(store.create(record("2", "child", { parent: "nobody" })), "not-found");
  await store.replace("base", (old) => ({ ...old, name: "chain", kind: "committed" }));
  await store.create(record("2", "child", { parent: "chain" }));
  await rejectsWith(store.remove("chain"), "busy");
  await rejectsWith(store.remove("base"), "not-found");
  const again = await SnapshotStore.open(directory, silentLog);
  await rejectsWith(again.remove("chain"), "busy");
  await again.remove("child");
  await again.remove("chain");
  assert.deepEqual(await readdir(directory), []);
  assert.equal(again.newId(), "3");
});

test("a damaged record is told of and counts as absent; what a killed process was writing goes", async (t) => {
  const directory = await tempDirectory(t);
  const store = await SnapshotStore.open(directory, silentLog);
  await store.create(record("1", "kept"));
  await writeFile(join(directory, "2.json"), "{");
  await writeFile(join(directory, "3.json"), '{"version":2}');
  await writeFile(join(directory, ".4.json.abc.tmp"), "half");
  await writeFile(join(directory, "5.json"), " ".repeat(limits.snapshotRecordBytes + 1));
  const errors: unknown[] = [];
  const log = { ...silentLog, error: (_: string, fields?: Record<string, unknown>) => errors.push(fields?.reason) };
  const again = await SnapshotStore.open(directory, log);
  assert.deepEqual(
    again.all().map(({ name }) => name),
    ["kept"],
  );
  assert.equal(errors.length, 3);
  assert.deepEqual((await readdir(directory)).sort(), ["1.json", "2.json", "3.json", "5.json"]);
  assert.equal(again.newId(), "6");
});

test("snapshots and their records are bounded", async (t) => {
  const store = await SnapshotStore.open(await tempDirectory(t), silentLog);
  const labels = { big: "x".repeat(limits.snapshotRecordBytes) };
  await rejectsWith(store.create(record("1", "big", { labels })), "limit");
  lowerLimits(t, { snapshots: 1 });
  await store.create(record("1", "one"));
  await rejectsWith(store.create(record("2", "two")), "limit");
});
