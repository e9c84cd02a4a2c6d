import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { asksForWritable, detectCaller } from "../../src/cli/mount-caller.js";

test("rw is looked for where mount(8) takes it, the last word counts", () => {
  for (const line of [
    "-w SRC DIR",
    "--rw SRC DIR",
    "--read-write SRC DIR",
    "-vw SRC DIR",
    "-t ocifs SRC DIR -o rw",
    "-t ocifs SRC DIR -o nosuid,rw,nodev",
    "-orw SRC DIR",
    "-vorw SRC DIR",
    "--options rw SRC DIR",
    "--options=rw SRC DIR",
    "-o ro -o rw SRC DIR",
    "-r -w SRC DIR",
    "-m -w SRC DIR",
  ]) {
    assert.equal(asksForWritable(line.split(" ")), true, line);
  }
  for (const line of [
    "-t ocifs SRC DIR",
    "-t w SRC DIR",
    "-tw SRC DIR",
    "-mw SRC DIR",
    "-o defaults SRC DIR",
    "-o rwx SRC DIR",
    "-o oci.username=rw SRC DIR",
    "-o rw,ro SRC DIR",
    "-w -r SRC DIR",
    "-w --read-only SRC DIR",
    "--types rw SRC DIR",
    "--source rw --target -w",
    "-- -w DIR",
    "-o",
    "--options",
  ]) {
    assert.equal(asksForWritable(line.split(" ")), false, line);
  }
});

test("the caller is told by the parent's name and command line", async () => {
  const directory = await mkdtemp(join(tmpdir(), "ocifs-caller-"));
  try {
    // A shell that is called mount and waits: /proc shows the same of it as of mount(8).
    const fakeMount = join(directory, "mount");
    await copyFile("/bin/sh", fakeMount);
    for (const [args, caller] of [
      [["SRC", "DIR"], "mount8"],
      [["SRC", "DIR", "-o", "ro"], "mount8"],
      [["SRC", "DIR", "-o", "rw"], "user"],
      [["-w", "SRC", "DIR"], "user"],
    ] as const) {
      const child = spawn(fakeMount, ["-c", "echo ready; read line", "name", ...args], {
        stdio: ["pipe", "pipe", "inherit"],
      });
      await once(child.stdout, "data");
      assert.equal(await detectCaller(child.pid), caller, args.join(" "));
      child.stdin.end();
      await once(child, "close");
      assert.equal(await detectCaller(child.pid), "user", "a process that is gone is not mount(8)");
    }
  } finally {
    await rm(directory, { recursive: true });
  }
  assert.equal(await detectCaller(process.pid), "user");
});
