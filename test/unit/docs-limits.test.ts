import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { repositoryRoot } from "../support/fixtures.js";

/** As the table writes it: the largest unit that leaves a small whole number. */
function written(key: string, value: number): string {
  if (key.endsWith("Ms")) return value % 3_600_000 === 0 ? `${value / 3_600_000} h` : `${value / 1000} s`;
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let size = value;
  while (size >= 1024 && size % 1024 === 0) {
    size /= 1024;
    unit++;
  }
  return key.endsWith("Bytes") && unit > 0 ? `${size} ${units[unit]}` : `${value}`;
}

test("RELIABILITY.md has each limit with its value, and tests that exist", async () => {
  const text = await readFile(join(repositoryRoot, "docs/RELIABILITY.md"), "utf8");
  const rows = new Map(
    [...text.matchAll(/^\| `(\w+)` \| ([^|]+) \| [^|]+ \| ([^|]+) \|$/gm)].map(
      ([, key = "", value = "", tests = ""]) => [
        key,
        { value, tests: [...tests.matchAll(/`([^`]+)`/g)].map(([, name]) => name) },
      ],
    ),
  );
  for (const [key, value] of Object.entries(limits)) {
    const row = rows.get(key);
    assert.ok(row !== undefined, `docs/RELIABILITY.md has no row for limits.${key}; add one that names its test`);
    assert.equal(row.value, written(key, value), key);
    assert.ok(row.tests.length > 0, `${key}: no test`);
    for (const name of row.tests)
      assert.ok(existsSync(join(repositoryRoot, `test/${name}.test.ts`)), `${key}: no test ${name}`);
  }
  for (const key of rows.keys()) assert.ok(key in limits, `docs/RELIABILITY.md: there is no limits.${key}`);
});
