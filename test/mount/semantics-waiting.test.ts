import assert from "node:assert/strict";
import { testDrivers } from "../support/driver-suite.js";
import { big, bigBytes, manyCount, spanBytes } from "../support/semantics-tree.js";
import { Syscalls } from "../support/syscalls.js";

const latin1 = (bytes: Uint8Array) => ({ bytes: Buffer.from(bytes).toString("latin1") });
const readBig = "os.pread(os.open(p('big'), 0), 100, 5_000_000)";
const wanted = latin1(big.subarray(5_000_000, 5_000_100));
/** Through the page cache only as much as is asked for, so that a test knows what it waits for. */
const random = "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)";

testDrivers("reads that wait for their bytes", async (lines) => {
  const start = () => lines.start();

  await lines.test("S60: a read waits for missing bytes and gives them; what is here is served meanwhile", async () => {
    await using here = await start();
    const { tree, sys } = here;
    tree.policy = "hold";
    // In none of the kernel's caches, and farther from the other place than the kernel reads ahead.
    await tree.fill((8 << 20) / spanBytes, tree.table.spanCount - 1);
    const waiting = sys.run(readBig);
    await tree.missed(1);
    const at = 10 << 20;
    assert.deepEqual(await sys.run(`os.pread(os.open(p('big'), 0), 100, ${at})`), latin1(big.subarray(at, at + 100)));
    await tree.release();
    assert.deepEqual(await waiting, wanted);
  });

  await lines.test("S61: any number of readers waits for the same bytes", async () => {
    await using here = await start();
    const { tree, sys } = here;
    tree.policy = "hold";
    // By O_DIRECT each of them asks; through the page cache those who come later wait for a page that is asked for.
    const flags = lines.inKernel ? "0" : "os.O_DIRECT";
    const read = `(m := mmap.mmap(-1, 4096)) and os.preadv(os.open(p('big'), ${flags}), [m], 1 << 20) and m[:100]`;
    const readers = Array.from({ length: 20 }, () => sys.run(read));
    await tree.missed(lines.inKernel ? 1 : 20);
    await tree.release();
    for (const got of await Promise.all(readers)) assert.deepEqual(got, latin1(big.subarray(1 << 20, (1 << 20) + 100)));
  });

  await lines.test("S62: SIGKILL ends a waiting reader at once", async () => {
    const mapped = "mmap.mmap(os.open(p('big'), 0), 0, prot=mmap.PROT_READ)[3_000_000]";
    const direct = "os.preadv(os.open(p('big'), os.O_DIRECT), [mmap.mmap(-1, 4096)], 4096)";
    for (const read of lines.inKernel ? [readBig, mapped] : [readBig, mapped, direct]) {
      await using here = await start();
      const { tree, sys } = here;
      tree.policy = "hold";
      const waiting = assert.rejects(sys.run(read), /ended/);
      await tree.missed(1);
      await sys.kill();
      await waiting;
      await using other = await Syscalls.start(tree.mountpoint);
      await tree.release();
      assert.deepEqual(await other.run(readBig), wanted, read);
    }
  });

  await lines.test("S63: other signals interrupt O_DIRECT reads only: EINTR, and the bytes still come", async () => {
    await using here = await start();
    const { tree, sys } = here;
    tree.policy = "hold";
    // A fork has one thread, which then is the one that gets the signal; Python's own read would start over at EINTR.
    const read = (flags: string, ready: string) => `
def read():
    fd, buffer = os.open(p('big'), ${flags}), mmap.mmap(-1, 4096)
    ${random}
    os.write(${ready}, str(os.getpid()).encode())
    check(libc.pread(fd, ctypes.c_char_p(ctypes.addressof(ctypes.c_char.from_buffer(buffer))), 4096, ctypes.c_long(2 << 20)))
result = in_child(read)
`;
    const interrupted = async (flags: string) => {
      const [out, into] = await sys.run<[number, number]>("os.pipe()");
      const done = sys.run(read(flags, String(into)));
      const before = tree.misses.length;
      const pid = await sys.run<PythonPid>(`os.read(${out}, 20)`);
      await tree.missed(before + 1);
      process.kill(Number(pid.bytes), "SIGUSR1");
      return { done };
    };
    if (!lines.inKernel) {
      const direct = await interrupted("os.O_DIRECT");
      assert.equal(await direct.done, "EINTR");
      assert.equal(tree.mounted.stats().interrupted, 1);
    }
    const buffered = await interrupted("os.O_RDONLY");
    await tree.release();
    assert.equal(await buffered.done, null);
    assert.deepEqual(await sys.run(readBig), wanted);
  });

  await lines.test("S64: bytes that cannot be had are EIO; the next read asks again", async () => {
    await using here = await start();
    const { tree, sys } = here;
    tree.policy = "EIO";
    for (let tries = 0; tries < 3; tries++) assert.equal(await sys.errno(readBig), "EIO");
    assert.ok(tree.mounted.stats().errors > 0);
    tree.policy = "fill";
    assert.deepEqual(await sys.run(readBig), wanted);
  });

  await lines.test("S65: a page of a mapping that cannot be had is SIGBUS", async () => {
    await using here = await start();
    const { tree, sys } = here;
    tree.policy = "EIO";
    const code = `
import subprocess
map = "import mmap, os, sys; print(mmap.mmap(os.open(sys.argv[1], 0), 0, prot=mmap.PROT_READ)[3_000_000])"
result = subprocess.run([sys.executable, "-c", map, p("big")], capture_output=True).returncode
`;
    assert.equal(await sys.run(code), -7);
    tree.policy = "fill";
    assert.equal(await sys.run(code), 0);
  });

  await lines.test("S66: a read that begins well and then fails is short; the next one gets the error", async () => {
    await using here = await start();
    const { tree, sys } = here;
    const [dataStart] = [await sys.run<number>("os.pread(os.open(p('big'), 0), 1, 0) and 0")];
    assert.equal(dataStart, 0);
    await sys.run(`[os.pread(os.open(p('big'), 0), 4096, at) for at in range(0, 1 << 20, 4096)] and None`);
    tree.policy = "EIO";
    const code = `
fd, total = os.open(p('big'), 0), 0
${random}
try:
    while piece := os.read(fd, 4 << 20):
        total += len(piece)
    result = 'the end'
except OSError as error:
    result = [errno.errorcode[error.errno], total]
`;
    const [name, total] = await sys.run<[string, number]>(code);
    assert.equal(name, "EIO");
    assert.ok(total >= 1 << 20 && total < bigBytes, String(total));
  });

  await lines.test("S67: names, attributes, links and xattrs never wait for the network", async () => {
    await using here = await start();
    const { tree, sys } = here;
    tree.policy = "hold";
    const code = `
count = 0
for directory, names, files in os.walk(mnt):
    for name in names + files:
        path = os.path.join(directory, name)
        os.lstat(path), os.listxattr(path, follow_symlinks=False)
        if os.path.islink(path): os.readlink(path)
        count += 1
result = count
`;
    assert.ok((await sys.run<number>(code)) > manyCount);
    assert.deepEqual(tree.misses, []);
  });
});

interface PythonPid {
  readonly bytes: string;
}
