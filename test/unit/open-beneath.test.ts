import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openBeneath } from "../../src/native/content.js";
import { throwsWith } from "../support/errors.js";
import { tempDirectory } from "../support/temp.js";

test("what a stream names is opened below its directory only, without following anything", async (t) => {
  const root = await tempDirectory(t);
  const inside = join(root, "in");
  mkdirSync(join(inside, "dir"), { recursive: true });
  writeFileSync(join(root, "outside"), "12345");
  writeFileSync(join(inside, "dir", "file"), "12345");
  symlinkSync("dir/file", join(inside, "link"));
  symlinkSync("dir", join(inside, "linked"));
  symlinkSync(root, join(inside, "up"));
  execFileSync("mkfifo", [join(inside, "fifo")]);
  const directory = openSync(inside, "r");
  t.after(() => closeSync(directory));
  const open = (name: string, sizeBytes = 5) => openBeneath(directory, Buffer.from(name), sizeBytes);

  const fd = open("dir/../dir/./file");
  assert.equal(readFileSync(fd, "utf8"), "12345");
  closeSync(fd);
  for (const name of ["../outside", "dir/../../outside", join(root, "outside"), join(inside, "dir", "file")]) {
    assert.match(throwsWith(() => open(name), "io").message, /cross-device/i, name);
  }
  for (const name of ["link", "linked/file", "up/outside"]) {
    assert.match(throwsWith(() => open(name), "io").message, /symbolic links/i, name);
  }
  // Links that the kernel makes up lead out as well.
  const descriptors = openSync("/proc/self/fd", "r");
  t.after(() => closeSync(descriptors));
  throwsWith(() => openBeneath(descriptors, Buffer.from(String(directory)), 5), "io");

  assert.match(throwsWith(() => open("fifo"), "mismatch").message, /no regular file/);
  assert.match(throwsWith(() => open("dir"), "mismatch").message, /no regular file/);
  assert.match(throwsWith(() => open("dir/file", 4), "mismatch").message, /has 5 bytes, want 4/);
  throwsWith(() => open("dir/file\0"), "corrupt");
});
