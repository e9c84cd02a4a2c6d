import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { testDrivers } from "../support/driver-suite.js";
import { big, bigBytes, noise, spanBytes } from "../support/semantics-tree.js";
import { buildTar } from "../support/tar-builder.js";

const latin1 = (bytes: Uint8Array) => ({ bytes: Buffer.from(bytes).toString("latin1") });

testDrivers("files", async (lines) => {
  await using here = await lines.start();
  const { tree, sys } = here;

  await lines.test("S30: opening sends no request, and what was read is kept over close", async () => {
    // Not open(): that asks whether the file is a terminal, which is an ioctl.
    const code = "result = os.read(fd := os.open(p('dir/sub/leaf'), 0), 9000)\nos.close(fd)";
    assert.deepEqual(await sys.run(code), latin1(noise(5000, 2)));
    const kept = async () => {
      const count = () => tree.mounted.stats()[lines.keepsAll ? "requests" : "reads"];
      const before = count();
      await sys.run(code);
      return count() === before;
    };
    let isKept = false;
    // Somebody else may empty the machine's caches just now.
    for (let tries = 0; tries < 10 && !isKept; tries++) isKept = await kept();
    assert.ok(isKept);
  });

  await lines.test(
    "S31: at and past the end there are 0 bytes, before the start EINVAL, in a directory EISDIR",
    async () => {
      const read = (name: string, offset: string) => `os.pread(os.open(p('${name}'), 0), 10, ${offset})`;
      assert.deepEqual(await sys.run(read("file", "0")), { bytes: "hello\n" });
      assert.deepEqual(await sys.run(read("file", "4")), { bytes: "o\n" });
      for (const offset of ["6", "7", "4096", "1 << 40", "(1 << 63) - 4097"]) {
        assert.deepEqual(await sys.run(read("file", offset)), { bytes: "" }, offset);
        assert.deepEqual(await sys.run(read("empty", offset)), { bytes: "" }, offset);
      }
      assert.deepEqual(await sys.run(read("empty", "0")), { bytes: "" });
      assert.equal(await sys.errno(read("file", "-1")), "EINVAL");
      assert.equal(await sys.errno(read("dir", "0")), "EISDIR");
    },
  );

  await lines.test("S32: any range reads as the tar has it, by several readers at once", async () => {
    const reader = async (seed: number) => {
      const code = `
import hashlib, random
order, fd, seen = random.Random(${seed}), os.open(p('big'), 0), []
for _ in range(200):
    at, size = order.randrange(${bigBytes}), order.choice([1, 511, 4096, 70_000, 1_500_000])
    seen.append([at, size, hashlib.sha256(os.pread(fd, size, at)).hexdigest()])
os.close(fd)
result = seen
`;
      for (const [at, size, digest] of await sys.run<[number, number, string][]>(code)) {
        const want = createHash("sha256")
          .update(big.subarray(at, at + size))
          .digest("hex");
        assert.equal(digest, want, `${size} bytes at ${at}`);
      }
    };
    await Promise.all([1, 2, 3, 4].map(reader));
  });

  await lines.test("S33: O_DIRECT reads work and are answered by the daemon each time", async () => {
    if (lines.inKernel) {
      assert.equal(await sys.errno("os.open(p('big'), os.O_DIRECT)"), "EINVAL");
      return;
    }
    const code = `
fd, buffer = os.open(p('big'), os.O_DIRECT), mmap.mmap(-1, 1 << 20)
size = os.preadv(fd, [buffer], 512)
result = bytes(buffer[:size])
`;
    assert.deepEqual(await sys.run(code), latin1(big.subarray(512, 512 + (1 << 20))));
    const before = tree.mounted.stats().reads;
    await sys.run(code);
    assert.ok(tree.mounted.stats().reads > before);
  });

  await lines.test(
    "S34: mmap gives the same bytes; shared and writable is EACCES, private writes stay private",
    async () => {
      const map = (protection: string, flags: string) =>
        `mmap.mmap(os.open(p('big'), 0), 0, flags=mmap.${flags}, prot=${protection})`;
      for (const flags of ["MAP_SHARED", "MAP_PRIVATE"]) {
        assert.deepEqual(
          await sys.run(`${map("mmap.PROT_READ", flags)}[700_000:700_500]`),
          latin1(big.subarray(700_000, 700_500)),
        );
      }
      assert.equal(await sys.errno(map("mmap.PROT_READ | mmap.PROT_WRITE", "MAP_SHARED")), "EACCES");
      const write = `
m = ${map("mmap.PROT_READ | mmap.PROT_WRITE", "MAP_PRIVATE")}
m[:5] = b'other'
result = [bytes(m[:8]), os.pread(os.open(p('big'), 0), 8, 0)]
`;
      const [mine, theirs] = await sys.run<[unknown, unknown]>(write);
      assert.deepEqual(mine, latin1(Buffer.concat([Buffer.from("other"), big.subarray(5, 8)])));
      assert.deepEqual(theirs, latin1(big.subarray(0, 8)));
    },
  );

  await lines.test("S35: sendfile and splice give the same bytes", async () => {
    const code = `
fd, (near, far), (out, pipe_in) = os.open(p('big'), 0), socket.socketpair(), os.pipe()
sent = os.sendfile(near.fileno(), fd, 123, 3000)
spliced = os.splice(fd, pipe_in, 3000, offset_src=123)
result = [far.recv(sent), os.read(out, spliced), sent, spliced]
`;
    const [sent, spliced, sentBytes, splicedBytes] = await sys.run<[unknown, unknown, number, number]>(code);
    assert.deepEqual(sent, latin1(big.subarray(123, 123 + sentBytes)));
    assert.deepEqual(spliced, latin1(big.subarray(123, 123 + splicedBytes)));
    assert.ok(sentBytes > 0 && splicedBytes > 0);
  });

  await lines.test("S36: copy_file_range into another file system is EXDEV, as of any two file systems", async () => {
    const code = "os.copy_file_range(os.open(p('file'), 0), os.memfd_create('copy'), 6)";
    assert.equal(await sys.errno(code), "EXDEV");
    const copy =
      "import shutil, tempfile\nwith tempfile.NamedTemporaryFile() as f: result = open(shutil.copy(p('file'), f.name), 'rb').read()";
    assert.deepEqual(await sys.run(copy), { bytes: "hello\n" });
  });

  await lines.test("S37: lseek: the whole file is data, its end the only hole", async () => {
    const seek = (name: string, offset: number, whence: string) =>
      `os.lseek(os.open(p('${name}'), 0), ${offset}, os.${whence})`;
    assert.equal(await sys.run(seek("big", 5, "SEEK_DATA")), 5);
    assert.equal(await sys.run(seek("big", 5, "SEEK_HOLE")), bigBytes);
    assert.equal(await sys.run(seek("big", -1, "SEEK_END")), bigBytes - 1);
    assert.equal(await sys.errno(seek("empty", 0, "SEEK_DATA")), "ENXIO");
    assert.equal(await sys.errno(seek("big", bigBytes, "SEEK_HOLE")), "ENXIO");
    assert.equal(await sys.errno(seek("big", -1, "SEEK_SET")), "EINVAL");
  });

  await lines.test("S38: posix_fadvise(WILLNEED) fetches ahead", async () => {
    await using beside = await lines.start();
    const { tree: fresh, sys: other } = beside;
    assert.equal(
      await other.run("os.posix_fadvise(os.open(p('big'), 0), 8 << 20, 100_000, os.POSIX_FADV_WILLNEED)"),
      null,
    );
    await fresh.missed(1);
    assert.ok((fresh.misses[0]?.first ?? 0) >= (8 << 20) / spanBytes);
  });

  await lines.test("S39: ioctl: ENOTTY, but for what the kernel answers for every file", async () => {
    const ioctl = (request: string, size: number) => `fcntl.ioctl(os.open(p('file'), 0), ${request}, bytes(${size}))`;
    assert.equal(await sys.errno(ioctl("0x80086601", 8)), "ENOTTY"); // FS_IOC_GETFLAGS
    assert.equal(await sys.errno(ioctl("termios.TCGETS", 64)), "ENOTTY");
    const fiemap = "fcntl.ioctl(os.open(p('file'), 0), 0xC020660B, struct.pack('QQIIII', 0, 4096, 0, 0, 0, 0))[20:24]";
    if (lines.inKernel) assert.deepEqual(await sys.run(fiemap), latin1(Buffer.from([1, 0, 0, 0])));
    else assert.equal(await sys.errno(fiemap), "ENOTSUP");
    assert.deepEqual(await sys.run(ioctl("termios.FIONREAD", 4)), latin1(Buffer.from([6, 0, 0, 0])));
    const block = Buffer.from([0, lines.inKernel ? 2 : 16, 0, 0]);
    assert.deepEqual(await sys.run(ioctl("2", 4)), latin1(block)); // FIGETBSZ
  });

  await lines.test("S40: locks work between the processes of this machine", async () => {
    const child = (call: string) => `in_child(lambda: ${call})`;
    const flock = "fcntl.flock(os.open(p('file'), 0), fcntl.LOCK_EX | fcntl.LOCK_NB)";
    const held = `held = os.open(p('file'), 0)\nfcntl.flock(held, fcntl.LOCK_EX)\nresult = ${child(flock)}\nos.close(held)`;
    assert.equal(await sys.run(held), "EAGAIN");
    assert.equal(await sys.run(child(flock)), null);
    assert.equal(await sys.run("fcntl.lockf(os.open(p('file'), 0), fcntl.LOCK_SH | fcntl.LOCK_NB)"), null);
    assert.equal(await sys.errno("fcntl.lockf(os.open(p('file'), 0), fcntl.LOCK_EX | fcntl.LOCK_NB)"), "EBADF");
  });

  await lines.test("S41: inotify watches, and reports what local processes do", async () => {
    const code = `
fd = check(libc.inotify_init1(os.O_NONBLOCK))
check(libc.inotify_add_watch(fd, p('file'), 0xFFF))
open(p('file'), 'rb').read()
events, data = [], os.read(fd, 4096)
while data:
    wd, mask, cookie, size = struct.unpack_from('iIII', data)
    events.append(mask)
    data = data[16 + size:]
os.close(fd)
result = events
`;
    const [open, access, close] = [0x20, 0x1, 0x10];
    assert.deepEqual(await sys.run(code), [open, access, close]);
  });

  await lines.test("S42: poll says ready at once", async () => {
    const code = `
poll = select.poll()
poll.register(os.open(p('file'), 0), select.POLLIN)
result = [event for _, event in poll.poll()]
`;
    assert.deepEqual(await sys.run(code), [1]);
  });

  await lines.test("S43: fsync, fdatasync and syncfs have nothing to do", async () => {
    assert.equal(await sys.run("check(libc.syncfs(os.open(p('file'), 0)))"), 0);
    for (const call of ["os.fsync(os.open(p('file'), 0))", "os.fdatasync(os.open(p('file'), 0))"]) {
      if (lines.inKernel) assert.equal(await sys.errno(call), "EINVAL");
      else assert.equal(await sys.run(call), null);
    }
  });

  await lines.test("S44: programs run; set-user-id counts unless nosuid is set", async () => {
    const id = await readFile("/usr/bin/id");
    const tar = buildTar([
      { path: "id", data: id, mode: 0o4755 },
      { path: "script", data: '#!/bin/sh\necho "$0 $1"\n', mode: 0o755 },
    ]);
    const runs = async (nosuid: boolean) => {
      await using started = await lines.start({ tar, flags: { nosuid } });
      const { tree: programs, sys: other } = started;
      const run = (args: string) =>
        `import subprocess\nresult = subprocess.run(${args}, user=1003, group=1003, extra_groups=[], capture_output=True, text=True).stdout`;
      assert.equal(await other.run(run("[p('script'), 'x']")), `${programs.mountpoint}/script x\n`);
      return await other.run(run("[p('id'), '-u']"));
    };
    assert.deepEqual([await runs(false), await runs(true)], ["0\n", "1003\n"]);
  });
});
