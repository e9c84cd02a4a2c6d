/** Who makes a file under a temporary name, and who removes what was left of it. */
import assert from "node:assert/strict";
import { open, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { claimTemporary, createClaimed, removeLeftovers } from "../../src/cache/temporary-files.js";
import { rejectsWith } from "../support/errors.js";
import { tempDirectory } from "../support/temp.js";

const isTemporary = (name: string) => name.startsWith("t-");

test("what is claimed stays, what nobody claims goes, and other names are nobody's business", async (t) => {
  const directory = await tempDirectory(t);
  for (const name of ["t-left", "other"]) await writeFile(join(directory, name), "x");
  {
    await using claimed = await open(join(directory, "t-claimed"), "wx+");
    assert.equal(claimTemporary(claimed.fd), true);
    await removeLeftovers(directory, isTemporary);
    assert.deepEqual((await readdir(directory)).sort(), ["other", "t-claimed"]);
  }
  // Its maker has closed it, or died.
  await removeLeftovers(directory, isTemporary);
  assert.deepEqual(await readdir(directory), ["other"]);
  await removeLeftovers(join(directory, "none"), isTemporary);
});

test("a file that is taken for a leftover before it is claimed is made again", async (t) => {
  const directory = await tempDirectory(t);
  let made = 0;
  const discarded: string[] = [];
  const create = async () => {
    const name = `t-${made++}`;
    const file = await open(join(directory, name), "wx+");
    if (made < 3) await removeLeftovers(directory, isTemporary);
    return { name, file };
  };
  const discard = async ({ name, file }: { name: string; file: { close(): Promise<void> } }) => {
    discarded.push(name);
    await file.close();
  };
  const { name, file } = await createClaimed(create, (each) => each.file.fd, discard);
  assert.deepEqual([name, discarded], ["t-2", ["t-0", "t-1"]]);
  assert.deepEqual(await readdir(directory), ["t-2"]);
  await file.close();
});

test("a directory where no new file stays is an error, not a hang", async (t) => {
  const directory = await tempDirectory(t);
  const create = async () => {
    const file = await open(join(directory, "t-again"), "wx+");
    await removeLeftovers(directory, isTemporary);
    return file;
  };
  const made = createClaimed(
    create,
    ({ fd }) => fd,
    (file) => file.close(),
  );
  assert.match((await rejectsWith(made, "busy")).message, /removed as fast as they are made/);
});
