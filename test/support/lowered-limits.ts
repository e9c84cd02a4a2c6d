import type { TestContext } from "node:test";
import { limits } from "../../src/base/limits.js";

/**
 * Other limits until the test ends, for those that no test could reach: sixteen million entries, a gigabyte of names. A test file is a
 * process of its own, so nobody else notices; tests of one file that run at once would.
 */
export function lowerLimits(t: TestContext, lowered: Partial<Record<keyof typeof limits, number>>): void {
  const before = { ...limits };
  Object.assign(limits, lowered);
  t.after(() => Object.assign(limits, before));
}
