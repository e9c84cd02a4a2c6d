import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

/** A fresh directory that goes with the test. */
export async function tempDirectory(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "ocifs-test-"));
  // What the test closes later may be writing its last file.
  t.after(() => rm(path, { recursive: true, force: true, maxRetries: 5 }));
  return path;
}
