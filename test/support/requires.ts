import { accessSync, constants, existsSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";

/** What is missing for a mount made by root over /dev/fuse; undefined when nothing is. */
function missingForMounts(): string | undefined {
  if (process.geteuid?.() !== 0) return "it needs root; run scripts/test as root";
  try {
    accessSync("/dev/fuse", constants.R_OK | constants.W_OK);
  } catch (error) {
    return `it needs /dev/fuse: ${error instanceof Error ? error.message : String(error)}; run modprobe fuse`;
  }
  return undefined;
}

/** What to do about `missing`: CI is meant to run everything, so there it fails; elsewhere the test is skipped with the reason. */
export function skipOrFail(t: Pick<TestContext, "skip" | "diagnostic">, missing: string, env = process.env): void {
  if (env.CI !== undefined && env.CI !== "" && env.CI !== "false") {
    throw new Error(`this test cannot run here and CI is set: ${missing}`);
  }
  t.diagnostic(`NOT RUN: ${missing}`);
  t.skip(missing);
}

/**
 * For the first line of a mount test: `if (!requireRootAndFuse(t)) return;`. True where root and /dev/fuse are there: from
 * then on a mount that fails is a failed test. Elsewhere see skipOrFail.
 */
export function requireRootAndFuse(t: TestContext): boolean {
  const missing = missingForMounts();
  if (missing === undefined) return true;
  skipOrFail(t, missing);
  return false;
}

/** The same for programs of Debian packages that a test runs; see the group "test" of scripts/apt-packages. */
export function requirePrograms(t: TestContext, ...names: readonly string[]): boolean {
  const directories = [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/sbin"];
  const missing = names.filter((name) => !directories.some((directory) => existsSync(join(directory, name))));
  if (missing.length === 0) return true;
  skipOrFail(t, `it needs ${missing.join(", ")}; run scripts/apt-packages test`);
  return false;
}
