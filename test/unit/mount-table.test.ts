import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import type { MountConfig } from "../../src/daemon/mount-config.js";
import { MountTable } from "../../src/daemon/mount-table.js";
import { rejectsWith } from "../support/errors.js";
import { lowerLimits } from "../support/lowered-limits.js";

interface Said {
  readonly message: string;
  readonly fields: Record<string, unknown> | undefined;
}

function openTable(t: TestContext): { readonly table: MountTable; readonly errors: Said[] } {
  const errors: Said[] = [];
  const ignore = () => undefined;
  const log = {
    error: (message: string, fields?: Record<string, unknown>) => void errors.push({ message, fields }),
    warn: ignore,
    info: ignore,
    debug: ignore,
  };
  const table = new MountTable(log, new AbortController().signal);
  t.after(() => table[Symbol.asyncDispose]());
  return { table, errors };
}

test("a daemon refuses more mounts than its limit before it opens anything", async (t) => {
  lowerLimits(t, { mountsOfDaemon: 0 });
  const { table } = openTable(t);
  const config = { mountpoint: "/mnt/one", source: "file:/nowhere" } as MountConfig;
  assert.match((await rejectsWith(table.open(config), "limit")).message, /\/mnt\/one: this daemon has 0 mounts/);
  assert.deepEqual(table.statuses(), []);
  await table.empty();
});

test("what cannot be gone on with is given up and said; what may pass is thrown", async (t) => {
  const { table, errors } = openTable(t);
  await table.adopt({ names: [], error: new OcifsError("corrupt", "kept mount m1: its state cannot be read") });
  assert.deepEqual(errors, [
    { message: "a mount cannot be gone on with", fields: { reason: "kept mount m1: its state cannot be read" } },
  ]);
  await rejectsWith(table.adopt({ names: [], error: new OcifsError("network", "no route") }), "network");
  assert.equal(table.size, 0);
});

test("only a mount of this daemon can be closed", async (t) => {
  const { table } = openTable(t);
  assert.match((await rejectsWith(table.close("/mnt/other"), "not-found")).message, /\/mnt\/other/);
});
