import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { openLog } from "../../src/base/log.js";
import { tempDirectory } from "../support/temp.js";

interface Line {
  readonly msg: string;
  readonly suppressed?: number;
  readonly reason?: string;
}

async function openTestLog(t: TestContext) {
  const path = join(await tempDirectory(t), "log");
  let nowMs = 0;
  return {
    log: openLog("debug", path, () => nowMs),
    wait: (ms: number) => {
      nowMs += ms;
    },
    lines: async () => {
      const text = await readFile(path, "utf8");
      return text
        .trim()
        .split("\n")
        .map((line): Line => JSON.parse(line));
    },
  };
}

test("a message that comes again and again is counted", async (t) => {
  const { log, wait, lines } = await openTestLog(t);
  for (let i = 0; i < 100; i++) log.warn("the same");
  assert.equal((await lines()).length, limits.logRepeatsPerMinute);
  wait(60_000);
  log.warn("the same");
  const [counted, again] = (await lines()).slice(limits.logRepeatsPerMinute);
  assert.equal(counted?.suppressed, 100 - limits.logRepeatsPerMinute);
  assert.equal(again?.msg, "the same");
});

test("different messages without end are held back too, and how many is told", async (t) => {
  const { log, wait, lines } = await openTestLog(t);
  const written = 3 * limits.logLinesPerMinute;
  for (let i = 0; i < written; i++) log.error(`span ${i}`);
  assert.equal((await lines()).length, limits.logLinesPerMinute);
  wait(60_000);
  log.info("after");
  const [told, after] = (await lines()).slice(limits.logLinesPerMinute);
  assert.equal(told?.suppressed, written - limits.logLinesPerMinute);
  assert.equal(after?.msg, "after");
});

test("a repeated message is told of when its count is given up for others", async (t) => {
  const { log, lines } = await openTestLog(t);
  for (let i = 0; i < 30; i++) log.warn("first");
  for (let i = 0; i < limits.logMessages; i++) log.debug(`other ${i}`);
  const told = (await lines()).filter(({ suppressed }) => suppressed !== undefined);
  assert.deepEqual(
    told.map(({ msg, suppressed }) => [msg, suppressed]),
    [["first (repeated)", 30 - limits.logRepeatsPerMinute]],
  );
});

test("a long line is cut", async (t) => {
  const { log, lines } = await openTestLog(t);
  log.error("m".repeat(1 << 20), { reason: "r".repeat(1 << 20), bytes: 5 });
  const [line] = await lines();
  assert.match(line?.msg ?? "", /^m{8192}… \(1048576 characters\)$/);
  assert.match(line?.reason ?? "", /^r{8192}… \(1048576 characters\)$/);
});
