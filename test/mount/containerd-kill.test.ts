import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { appLayer, baseLayer, pushContainerImage } from "../support/container-images.js";
import { ContainerdSandbox, type RunningContainer } from "../support/containerd.js";
import { startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { tempDirectory } from "../support/temp.js";

/** The full form has 20 containers of 5 images: OCIFS_TEST_CONTAINERS=20 OCIFS_TEST_IMAGES=5. */
const containerCount = Number(process.env.OCIFS_TEST_CONTAINERS ?? 4);
const imageCount = Number(process.env.OCIFS_TEST_IMAGES ?? 2);

/** Has a container read its image once more: the line that it says then. */
async function ask({ process }: RunningContainer): Promise<string> {
  assert.ok(process.stdin && process.stdout);
  const answer = once(process.stdout, "data");
  process.stdin.write("x");
  return String((await answer)[0]).trimEnd();
}

test("containers do not notice that others are killed, nor that the snapshotter is", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const work = await tempDirectory(t);
  const registry = await startRegistry();
  t.after(() => registry.stop());
  const base = await baseLayer(work);
  const names = Array.from({ length: imageCount }, (_, number) => `app${number}`);
  const references = await Promise.all(
    names.map((name) => pushContainerImage(registry.host, `team/${name}`, [base, appLayer(name)])),
  );
  const sandbox = await ContainerdSandbox.open([registry.host]);
  t.after(() => sandbox[Symbol.asyncDispose]());
  for (const reference of references) await sandbox.pull(reference);
  const nameOf = (number: number) => names[number % imageCount] ?? "";
  const all = Array.from({ length: containerCount }, (_, number) =>
    sandbox.run(references[number % imageCount] ?? "", ["/tool", "serve", "/etc/hello"]),
  );
  for (const [number, { firstLine }] of all.entries()) assert.equal(await firstLine, `hello from ${nameOf(number)}`);

  // Half of each image's containers.
  const killed = all.filter((_, number) => Math.floor(number / imageCount) % 2 === 1);
  const left = [...all.entries()].filter(([, container]) => !killed.includes(container));
  assert.ok(killed.length > 0 && left.length > 0);
  await Promise.all(killed.map((container) => sandbox.kill(container)));
  await sandbox.stopSnapshotter("SIGKILL");
  const askAll = async () => {
    for (const [number, container] of left) assert.equal(await ask(container), `hello from ${nameOf(number)}`);
  };
  await askAll();
  await sandbox.startSnapshotter();
  await askAll();
  await sandbox.reconnected();
  const again = await sandbox.run(references[0] ?? "", ["/tool", "cat", "/etc/hello"]).end;
  assert.deepEqual(again, { status: 0, stdout: "hello from app0\n" });
  for (const [, container] of left) {
    container.process.stdin?.end();
    assert.equal((await container.end).status, 0);
  }
});
