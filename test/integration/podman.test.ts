import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { writeBusyboxImage } from "../support/busybox-image.js";
import { MountSandbox, runCommand } from "../support/mounted-image.js";
import { requirePrograms, requireRootAndFuse } from "../support/requires.js";

test("podman run --rootfs MNT:O writes beside the mount", async (t) => {
  if (!requireRootAndFuse(t) || !requirePrograms(t, "podman", "runc", "busybox")) return;
  const sandbox = await MountSandbox.open(t);
  const source = await writeBusyboxImage(sandbox.directory, {});
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mountedFirst([source, mountpoint]);
  const at = (name: string) => join(sandbox.directory, name);
  const state = ["--root", at("storage"), "--runroot", at("state"), "--tmpdir", at("tmp")];
  // Podman mounts its storage on itself; in a namespace of its own that goes with it. Raising limits takes a privilege that CI lacks.
  const line = ["unshare", "--mount", "podman", ...state, "--cgroup-manager=cgroupfs", "--runtime=runc", "run", "--rm"];
  const limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
  const command = ["sh", "-c", "id -u; touch /written && ls /written; head -n 1 /proc/self/mounts"];
  const ran = await runCommand([...line, "--network=none", ...limits, "--rootfs", `${mountpoint}:O`, ...command]);
  assert.equal(ran.status, 0, ran.stderr);
  assert.match(ran.stdout, /^0\n\/written\n\S+ \/ overlay rw/);
  const { stdout } = await runCommand(["ls", mountpoint]);
  assert.equal(stdout.includes("written"), false);
  await sandbox.unmount(mountpoint);
});
