import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { repositoryRoot } from "../support/fixtures.js";
import { MountSandbox, programLine, runCommand } from "../support/mounted-image.js";
import { NotifySocket } from "../support/notify-socket.js";
import { requirePrograms, requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer } from "../support/sample-layer.js";

test("the service tells its manager of readiness, of life and of its end", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const socket = join(sandbox.directory, "notify");
  const manager = await NotifySocket.listen(t, socket);
  const [node, program] = programLine("mount.ocifs");
  // As ExecStart= of the unit has it, without OCIFS_OPTIONS.
  const options = ["-o", "foreground,", "-o", `cachedir=${sandbox.cache},${layer.words.join(",")}`];
  const child = spawn(node, [program, ...options, "--", `file:${layer.blobPath}`, mountpoint], {
    stdio: "ignore",
    env: { ...process.env, ...sandbox.env, NOTIFY_SOCKET: socket, WATCHDOG_USEC: "100000" },
  });
  const exited = once(child, "exit");
  t.after(() => child.kill("SIGKILL"));
  const text = async () => (await manager.next()).message;
  // What the manager keeps for the daemon after this one: the connection, and what it is a mount of.
  const kept = [];
  let message = await text();
  for (; message.startsWith("FDSTORE=1\n"); message = await text())
    kept.push(/^FDNAME=m[0-9a-f]{12}\.(.*)$/m.exec(message)?.[1]);
  assert.ok(kept.includes("fuse") && kept.includes("state"), kept.join());
  for (const part of kept) assert.match(part ?? "", /^(fuse|state|clone\d+)$/);
  assert.equal(message, `READY=1\nSTATUS=Serving ${mountpoint}`);
  assert.match(await readFile(join(mountpoint, "hello"), "utf8"), /^hello/);
  assert.equal(await text(), "WATCHDOG=1");
  assert.equal(await text(), "WATCHDOG=1");
  child.kill("SIGTERM");
  let last = await text();
  while (last === "WATCHDOG=1") last = await text();
  assert.equal(last, "STOPPING=1");
  assert.deepEqual(await exited, [0, null]);
  assert.deepEqual(await sandbox.mounts(), []);
});

test("systemd-analyze finds nothing wrong with the units and the examples, and their exposure is low", async (t) => {
  if (!requireRootAndFuse(t) || !requirePrograms(t, "systemd-analyze")) return;
  const sandbox = await MountSandbox.open(t);
  const at = (name: string) => join(sandbox.directory, name);
  await writeFile(at("mount.ocifs"), "#!/bin/sh\n");
  await chmod(at("mount.ocifs"), 0o755);
  for (const name of ["ocifs.service", "ocifs@.service"]) {
    const unit = await readFile(join(repositoryRoot, "scripts", "systemd", name), "utf8");
    await writeFile(at(name), unit.replace(/(?<=^ExecStart=)\S+/m, at("mount.ocifs")));
  }
  // The documentation's examples: a code block each, whose first line is a comment with the unit's name.
  const examples = (await readFile(join(repositoryRoot, "docs", "SYSTEMD.md"), "utf8")).matchAll(
    /^ {4}# (\S+\.(?:auto)?mount)\n((?: {4}.*\n|\n)+)/gm,
  );
  const names = ["ocifs.service", "ocifs@mnt-app.service"];
  for (const [, name = "", body = ""] of examples) {
    await writeFile(at(name), body.replaceAll(/^ {4}/gm, ""));
    names.push(name);
  }
  assert.deepEqual(names.slice(2), ["srv-app.mount", "srv-app.automount"]);
  const verified = await runCommand(["systemd-analyze", "verify", ...names.map(at)]);
  assert.deepEqual(verified, { status: 0, stdout: "", stderr: "" });
  // The threshold is ten times the figure that is printed.
  for (const [name, threshold] of [
    ["ocifs@mnt-app.service", 45],
    ["ocifs.service", 50],
  ] as const) {
    const exposure = ["systemd-analyze", "security", "--offline=true", `--threshold=${threshold}`, "--no-pager"];
    const { status, stdout } = await runCommand([...exposure, at(name)]);
    assert.equal(status, 0, stdout.split("\n").at(-2));
  }
});
