/** Descriptors over a socket where the limit of open files is low: of who receives (MSG_CTRUNC), and of who sends (ETOOMANYREFS). */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { runProgram } from "../support/process.js";
import { requireRootAndFuse } from "../support/requires.js";

const program = fileURLToPath(new URL("../support/fd-limits.js", import.meta.url));

async function run(what: string, openFiles: number, prefix: readonly string[] = []): Promise<Record<string, unknown>> {
  const [first = "", ...rest] = [
    ...prefix,
    ...["prlimit", `--nofile=${openFiles}:${openFiles}`, process.execPath, program, what],
  ];
  return JSON.parse(await runProgram(first, rest)) as Record<string, unknown>;
}

test("descriptors that the kernel throws away end the connection, and none of them stays open", async () => {
  const { said, left } = await run("truncated", 100);
  assert.match(String(said), /descriptors were lost on the way/);
  assert.equal(left, 0);
});

test("a sender with too many descriptors under way waits until they are taken, and sends nothing twice", async (t: TestContext) => {
  // The kernel holds only those to the limit who have neither of these.
  if (!requireRootAndFuse(t)) return;
  const unprivileged = ["setpriv", "--bounding-set", "-sys_admin,-sys_resource"];
  const { refused, text, fds } = await run("too-many", 80, unprivileged);
  assert.match(String(refused), /ETOOMANYREFS/);
  assert.deepEqual([text, fds], ["xlast", 1]);
});
