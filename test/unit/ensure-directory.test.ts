import assert from "node:assert/strict";
import { stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { ensureDirectory } from "../../src/base/ensure-directory.js";
import { tempDirectory } from "../support/temp.js";

test("makes what is missing of a path, with the mode, and leaves what is there", async (t) => {
  const base = await tempDirectory(t);
  await ensureDirectory(join(base, "a", "b", "c"), 0o700);
  await ensureDirectory(join(base, "a", "b", "c"), 0o700);
  const { mode } = await stat(join(base, "a", "b"));
  assert.equal(mode & 0o777, 0o700);
});

test("ends with an error where no directory can be made", async (t) => {
  const base = await tempDirectory(t);
  await writeFile(join(base, "file"), "");
  await assert.rejects(ensureDirectory(join(base, "file", "x")), { code: "ENOTDIR" });
  await assert.rejects(ensureDirectory("/proc/ocifs-test/x"), { code: "ENOENT" });
});
