import assert from "node:assert/strict";
import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type Finished, MountSandbox, programLine, runCommand } from "../support/mounted-image.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, type SampleLayer } from "../support/sample-layer.js";

const user = 65534;

/**
 * Runs a script as an ordinary user in a mount namespace of its own, where /dev/fuse is open to everybody, as it is on
 * machines that offer FUSE to users, and our programs are where he can read them. The namespace's mounts go with it.
 */
async function setStage(t: TestContext): Promise<{
  sandbox: MountSandbox;
  layer: SampleLayer;
  /** `asRoot` runs after the script, in the same namespace. */
  run(script: string, options?: { fuseConf?: string; asRoot?: string }): Promise<Finished>;
}> {
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  await chmod(layer.blobPath, 0o644);
  for (const file of [layer.tarindex, layer.zinfo, layer.tarindex.replace(/tarindex$/, "json")])
    await chmod(file, 0o644);
  const [node, program] = programLine("mount.ocifs");
  const checkout = join(program, "../../../..");
  const run = async (script: string, { fuseConf = "", asRoot = "" } = {}) => {
    const prepare = `
mkdir -p "$DIR/dev" "$DIR/home" "$DIR/app"
mount -t tmpfs none "$DIR/dev"; mknod -m 666 "$DIR/dev/fuse" c 10 229; mount --bind "$DIR/dev/fuse" /dev/fuse
printf '%s' '${fuseConf}' > "$DIR/dev/fuse.conf"; chmod 644 "$DIR/dev/fuse.conf"; mount --bind "$DIR/dev/fuse.conf" /etc/fuse.conf
mount --bind '${checkout}' "$DIR/app"; cp "$(readlink -f '${node}')" "$DIR/dev/node"; chmod 755 "$DIR/dev/node"
chown ${user}:${user} "$DIR/home"; cd "$DIR/home"
`;
    const inner = `
mount_ocifs() { "$DIR/dev/node" "$DIR/app/dist/src/cli/mount-ocifs.js" "$@"; }
ocifs() { "$DIR/dev/node" "$DIR/app/dist/src/cli/ocifs.js" "$@"; }
INDEX='${layer.words.join(",")}'; BLOB='file:${layer.blobPath}'
mkdir -p mnt
${script}`;
    const become = `setpriv --reuid ${user} --regid ${user} --clear-groups env -i "PATH=$PATH" "HOME=$DIR/home" "DIR=$DIR" "XDG_RUNTIME_DIR=$DIR/home/run"`;
    const command = [
      "unshare",
      "--mount",
      "bash",
      "--norc",
      "-euc",
      `${prepare}\n${become} LC_ALL=C bash --norc -euc "$0"\n${asRoot}`,
      inner,
    ];
    return await runCommand(command, { env: { DIR: sandbox.directory } });
  };
  return { sandbox, layer, run };
}

test("an ordinary user mounts through fusermount3, with his own cache and runtime directory", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const done = await run(`
mount_ocifs "$BLOB" mnt -o "$INDEX"
cat mnt/hello; sha256sum < mnt/big; sha256sum <(gzip -dc "\${BLOB#file:}" | tar xO big) | cut -c1-64
findmnt -n -o FSTYPE,SOURCE,OPTIONS "$DIR/home/mnt" | tr -s ' '
ocifs status --json | grep -c '"driver": "fuse"'
ls -d .cache/ocifs/blobs run/ocifs
pid=$(ls run/ocifs | grep -o '^[0-9]*' | head -1)
fusermount3 -u mnt
ls mnt | wc -l
tail --pid="$pid" -s 0.1 -f /dev/null
ls run/ocifs | wc -l`);
  assert.deepEqual([done.status, done.stderr], [0, ""], done.stdout);
  const [hello, ours = "", theirs, found, drivers, cache, runtime, left, sockets] = done.stdout.split("\n");
  assert.deepEqual(
    [hello, drivers, cache, runtime, left, sockets],
    ["hello ", "1", ".cache/ocifs/blobs", "run/ocifs", "0", "0"],
  );
  assert.equal(ours.slice(0, 64), theirs);
  assert.match(
    found ?? "",
    /^fuse\.ocifs file:\/.*layer\.tar\.gz ro,nosuid,nodev,relatime,user_id=65534,group_id=65534,default_permissions$/,
  );
});

test("SIGTERM ends an ordinary user's mount", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const done = await run(`
mount_ocifs "$BLOB" mnt -o "$INDEX"
pid=$(ls run/ocifs | grep -o '^[0-9]*' | head -1)
kill "$pid"; tail --pid="$pid" -s 0.1 -f /dev/null
findmnt "$DIR/home/mnt" || echo gone
ls run/ocifs | wc -l`);
  assert.deepEqual([done.status, done.stdout, done.stderr], [0, "gone\n0\n", ""]);
});

test("allow_other is root's to allow, in fuse.conf", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const script =
    'mount_ocifs "$BLOB" mnt -o "$INDEX,allow_other" || echo "exit $?"; findmnt -n -o OPTIONS "$DIR/home/mnt" || true';
  const refused = await run(script);
  assert.equal(refused.stdout, "exit 32\n");
  assert.match(refused.stderr, /^mount\.ocifs: fusermount3 could not mount .*: .*user_allow_other/);
  const allowed = await run(`${script}; fusermount3 -u mnt`, { fuseConf: "user_allow_other\n" });
  assert.deepEqual([allowed.status, allowed.stderr], [0, ""]);
  assert.match(
    allowed.stdout,
    /^ro,nosuid,nodev,relatime,user_id=65534,group_id=65534,default_permissions,allow_other\n$/,
  );
});

test("S77: without allow_other a user's mount is for him alone: others, root too, get EACCES", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const asRoot = 'ls mnt || echo "exit $?"; cat mnt/hello || echo "exit $?"; umount mnt';
  const done = await run('mount_ocifs "$BLOB" mnt -o "$INDEX"; cat mnt/hello', { asRoot });
  assert.equal(done.stdout, "hello \nexit 2\nexit 1\n");
  assert.match(done.stderr, /^ls: cannot access 'mnt': Permission denied\ncat: mnt\/hello: Permission denied\n$/);
});

test("what an ordinary user lacks is told: here, a mountpoint that is not his", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { run } = await setStage(t);
  const done = await run(`mount_ocifs "$BLOB" /usr -o "$INDEX" || echo "exit $?"`);
  assert.equal(done.stdout, "exit 32\n");
  assert.match(done.stderr, /^mount\.ocifs: fusermount3 could not mount \/usr: [^\n]+\n$/);
});
