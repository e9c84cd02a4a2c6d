import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { bundledProgramLine, type Finished, MountSandbox, runCommand } from "../support/mounted-image.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, type SampleLayer } from "../support/sample-layer.js";

/**
 * mount(8) looks for helpers in /sbin only. A mount namespace with an overlay over it has the helper there, and nothing of
 * the machine changes; the mounts of the script go with the namespace, and so do their daemons.
 */
async function setStage(t: TestContext): Promise<{
  sandbox: MountSandbox;
  layer: SampleLayer;
  mountpoint: string;
  run(script: string, fstab?: string): Promise<Finished>;
}> {
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const helper = join(sandbox.directory, "sbin", "mount.ocifs");
  await mkdir(join(sandbox.directory, "sbin"));
  const [node, program] = bundledProgramLine("mount.ocifs");
  // As scripts/install writes it.
  for (const path of [helper, helper.replace(/ocifs$/, "fuse.ocifs")]) {
    await writeFile(path, `#!/bin/sh\nexec '${node}' '${program}' "$@"\n`, { mode: 0o755 });
  }
  const run = async (script: string, fstab = "") => {
    await writeFile(join(sandbox.directory, "fstab"), fstab);
    const prepare = `sbin=$(readlink -f /sbin); mount -t overlay none -o "lowerdir=$DIR/sbin:$sbin" "$sbin"; cd "$DIR"`;
    const quoted = [`INDEX='${layer.words.join(",")}'`, `BLOB='file:${layer.blobPath}'`, "MNT=mnt"];
    return await runCommand(
      ["unshare", "--mount", "bash", "--norc", "-euc", `${prepare}; ${quoted.join("; ")}\n${script}`],
      {
        env: { ...sandbox.env, DIR: sandbox.directory, LC_ALL: "C" },
      },
    );
  };
  return { sandbox, layer, mountpoint, run };
}

const status = async (sandbox: MountSandbox) => JSON.parse((await sandbox.ocifs(["status", "--json"])).stdout);

test("mount -t ocifs and umount", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, mountpoint, run } = await setStage(t);
  const done = await run(`
    mount -t ocifs "$BLOB" mnt -o "$INDEX,cachedir=$DIR/cache,nosuid,x-systemd.requires=foo,_netdev"
    cat mnt/hello
    findmnt -n -o FSTYPE,SOURCE,VFS-OPTIONS "$DIR/mnt"
    umount mnt
    ls mnt | wc -l`);
  assert.deepEqual([done.status, done.stderr], [0, ""]);
  const [hello, found, left] = done.stdout.split("\n").map((line) => line.replaceAll(/ +/g, " "));
  assert.equal(hello?.trim(), "hello");
  assert.match(found ?? "", /^fuse\.ocifs file:\/.*layer\.tar\.gz ro,nosuid,relatime$/);
  assert.equal(left, "0");
  assert.deepEqual(await status(sandbox), { mounts: [] });
  assert.deepEqual(await sandbox.mounts(), [], `nothing of it is seen outside: ${mountpoint}`);
});

test("mount -N mounts in another mount namespace", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const done = await run(`
    coproc OTHER { exec unshare --mount sh -c 'echo; exec cat'; }
    read -r _ <&"\${OTHER[0]}"
    mount -N "$OTHER_PID" -t ocifs "$BLOB" "$DIR/mnt" -o "$INDEX,cachedir=$DIR/cache"
    ls mnt | wc -l
    inside() { nsenter --mount --target "$OTHER_PID" "$@"; }
    inside cat "$DIR/mnt/hello"
    inside umount "$DIR/mnt"
    set +e; mount -N "$$" -t ocifs "$BLOB" "$DIR/none"; echo "$?"; mount.ocifs "$BLOB" "$DIR/mnt" -N "$DIR/fstab"; echo "$?"`);
  assert.deepEqual(
    done.stdout.split("\n").map((line) => line.trim()),
    ["0", "hello", "1", "1", ""],
  );
  assert.match(done.stderr, /none: it does not exist.*\n.*fstab: it is no mount namespace|it is no mount namespace/s);
});

test("mount by an entry of fstab, also with everything else that stands there", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, mountpoint, run } = await setStage(t);
  const options = `noauto,nofail,_netdev,user,x-systemd.automount,noexec,${layer.words.join(",")},cachedir=${sandbox.cache}`;
  const fstab = `file:${layer.blobPath} ${mountpoint} ocifs ${options} 0 0\n`;
  const done = await run(
    'mount -T fstab "$DIR/mnt"; cat mnt/hello; findmnt -n -o VFS-OPTIONS "$DIR/mnt"; umount mnt',
    fstab,
  );
  assert.deepEqual([done.status, done.stderr], [0, ""]);
  const [, options2] = done.stdout.split("\n");
  assert.equal(options2, "ro,nosuid,nodev,noexec,relatime");
});

test("mount(8) passes on the helper's exit code and its sentence", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const fails = async (command: string, code: number, message: RegExp) => {
    const done = await run(`set +e; ${command}; echo "$?"`);
    assert.equal(done.stdout.trim(), String(code), done.stderr);
    assert.match(done.stderr, message);
  };
  await fails("mount -t ocifs file:/nosuch mnt", 32, /blob \/nosuch: cannot open/);
  await fails('mount -t ocifs "$BLOB" mnt -o nosuchoption', 1, /nosuchoption: unknown option/);
  await fails('mount -t ocifs "$BLOB" mnt -o rw,"$INDEX"', 1, /rw: an image mounted by ocifs is read-only/);
  await fails('mount -w -t ocifs "$BLOB" mnt -o "$INDEX"', 1, /is read-only/);
  await fails('mount -f -t ocifs "$BLOB" mnt -o "$INDEX,cachedir=$DIR/cache"; findmnt mnt', 1, /^$/);
});

test("a mount can be bound to another place, and lives until the last of both is unmounted", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const done = await run(`
    mount -t ocifs "$BLOB" mnt -o "$INDEX,cachedir=$DIR/cache"
    mkdir bound; mount --bind mnt/dir bound; cat bound/../mnt/hello; readlink bound/link
    umount mnt; readlink bound/link; umount bound`);
  assert.deepEqual([done.status, done.stderr, done.stdout], [0, "", "hello \n../hello\n../hello\n"]);
});

test("mount -o remount changes flags, leaves the rest alone and never makes it writable", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const fstab = "file:/nosuch /nosuch ocifs ro,oci.insecure 0 0";
  const done = await run(
    `
    options() { findmnt -n -o FSTYPE,VFS-OPTIONS mnt; }
    mount -t ocifs "$BLOB" mnt -o "$INDEX,cachedir=$DIR/cache,nosuid"
    mount -o remount,ro mnt; options
    mount -o remount,noexec "$DIR/mnt"; options
    mount -t ocifs -o remount,ro "$BLOB" mnt; options
    set +e; mount -o remount,rw mnt; echo "$?"; options; set -e
    cat mnt/hello; df --output=avail mnt | tail -n 1; stat -f -c %T mnt; umount mnt
    set +e; mount -t ocifs -o remount,ro "$BLOB" mnt; echo "$?"`,
    fstab,
  );
  assert.deepEqual(
    done.stdout.split("\n").map((line) => line.replaceAll(/\s+/g, " ").trim()),
    [
      ...["fuse.ocifs ro,nosuid,relatime", "fuse.ocifs ro,nosuid,noexec,relatime", "fuse.ocifs ro,relatime"],
      ...["1", "fuse.ocifs ro,relatime", "hello", "0", "fuseblk", "1", ""],
    ],
  );
  assert.match(done.stderr, /rw: an image mounted by ocifs is read-only.*\n.*no mount of ocifs is there/s);
});
