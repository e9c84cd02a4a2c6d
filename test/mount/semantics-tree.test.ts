import assert from "node:assert/strict";
import { open } from "node:fs/promises";
import { test } from "node:test";
import { testDrivers } from "../support/driver-suite.js";
import { tarindexOfTar } from "../support/layers.js";
import { MountedTree } from "../support/mounted-tree.js";
import { requireRootAndFuse } from "../support/requires.js";
import {
  accessAcl,
  bigBytes,
  capability,
  longName,
  manyCount,
  mtime,
  noise,
  oddName,
} from "../support/semantics-tree.js";
import { type PythonBytes, Syscalls } from "../support/syscalls.js";
import { buildTar } from "../support/tar-builder.js";

const latin1 = (bytes: Uint8Array) => Buffer.from(bytes).toString("latin1");
const odd = `b"${[...oddName].map((b) => `\\x${b.toString(16).padStart(2, "0")}`).join("")}"`;

testDrivers("names, attributes and directories", async (lines) => {
  await using here = await lines.start();
  const { tree, sys } = here;
  /** What `code` costs in requests to the daemon. */
  const requestsOf = async (code: string) => {
    const before = tree.mounted.stats().requests;
    await sys.run(code);
    return tree.mounted.stats().requests - before;
  };
  /** True when `code` can do without the daemon. Somebody else may empty the machine's caches just now, hence more than one try. */
  const isKept = async (code: string) => {
    for (let tries = 0; tries < 10; tries++) if ((await requestsOf(code)) === 0) return true;
    return false;
  };

  await lines.test("S1: what was looked up is kept: the second time sends no request", async () => {
    assert.notEqual(await requestsOf("os.stat(p('dir/sub/leaf')).st_size"), 0);
    assert.ok(await isKept("[os.stat(p('dir/sub/leaf')) for _ in range(100)] and None"));
  });

  await lines.test("S2: a missing name is ENOENT, which is kept as well", async () => {
    const missing = "result = os.path.lexists(p('missing'))";
    // The kernel's own file system has the directory's block already.
    if (!lines.inKernel) assert.notEqual(await requestsOf(missing), 0);
    assert.ok(await isKept(missing));
    assert.equal(await sys.errno("os.stat(p('missing'))"), "ENOENT");
    assert.equal(await sys.errno("os.stat(p('missing/below'))"), "ENOENT");
  });

  await lines.test("S3: a name has up to 255 bytes, beyond is ENAMETOOLONG", async () => {
    assert.equal(await sys.run(`os.stat(p('${longName}')).st_size`), 4);
    assert.equal(await sys.errno(`os.stat(p('${longName}n'))`), "ENAMETOOLONG");
    assert.equal(await sys.errno(`os.stat(p('${longName.slice(1)}'))`), "ENOENT");
  });

  await lines.test("S4: names are bytes", async () => {
    assert.deepEqual(await sys.run(`open(p(${odd}), 'rb').read()`), { bytes: "odd" });
    const names = (await sys.run<PythonBytes[]>("os.listdir(mnt)")).map((name) => name.bytes);
    assert.ok(names.includes(latin1(oddName)));
    assert.equal(await sys.errno("os.stat(p('FILE'))"), "ENOENT");
  });

  await lines.test("S5: stat, lstat and statx give what the tar says", async () => {
    const fields = "[s.st_mode, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns, s.st_atime_ns, s.st_ctime_ns]";
    const ns = mtime * 1e9;
    assert.deepEqual(await sys.run(`s = os.stat(p('file'))\nresult = ${fields}`), [
      0o100640,
      1001,
      1002,
      6,
      ns,
      ns,
      ns,
    ]);
    const directory = await sys.run<number[]>(`s = os.stat(p('dir'))\nresult = ${fields}`);
    assert.deepEqual(directory.slice(0, 3), [0o040750, 5, 6]);
    assert.equal(await sys.run("os.lstat(p('link')).st_mode"), 0o120777);
    assert.equal(await sys.run("os.stat(p('link')).st_size"), 5000);
    const extended = await sys.run<{ mask: number; size: number }>("statx('file')");
    assert.equal(extended.size, 6);
    const known = lines.inKernel ? 0x7df : 0x7ff;
    assert.equal(extended.mask & 0xfff, known, "not the time of birth, which no layer records, nor EROFS' atime");
  });

  await lines.test("S6: times have nanoseconds and may lie before 1970", async () => {
    assert.equal(await sys.run("str(os.stat(p('precise')).st_mtime_ns)"), "1234567890987654321");
    assert.equal(await sys.run("os.stat(p('old')).st_mtime_ns"), -1000 * 1e9);
  });

  await lines.test("S7: st_blocks says the whole size, cached or not", async () => {
    assert.deepEqual(await sys.run("(s := os.stat(p('big'))) and [s.st_blocks, s.st_blksize, s.st_size]"), [
      bigBytes / 512,
      lines.inKernel ? 512 : 4096,
      bigBytes,
    ]);
    assert.equal(await sys.run("os.stat(p('file')).st_blocks"), 1);
    assert.equal(await sys.run("os.stat(p('empty')).st_blocks"), 0);
  });

  await lines.test(
    "S8: inode numbers are the index's, stay the same in the next mount, and are those of readdir",
    async () => {
      const all = `
result = {}
for directory, names, files in os.walk(mnt):
    for entry in os.scandir(directory):
        result[os.fsdecode(entry.path[len(mnt):])] = [entry.inode(), entry.stat(follow_symlinks=False).st_ino]
`;
      const inodes = await sys.run<Record<string, [number, number]>>(all);
      assert.ok(Object.keys(inodes).length > manyCount);
      for (const [path, [fromReaddir, fromStat]] of Object.entries(inodes)) assert.equal(fromReaddir, fromStat, path);
      const numbers = Object.entries(inodes).map(([path, [ino]]) => (path === "/hard" ? 0 : ino));
      assert.equal(new Set(numbers).size, numbers.length);
      assert.deepEqual(inodes["/hard"], inodes["/file"]);
      await using again = await lines.start();
      assert.deepEqual(await again.sys.run(all), inodes);
    },
  );

  await lines.test("S9: st_nlink counts names of files, and of directories the entries that lead there", async () => {
    assert.equal(await sys.run("os.stat(p('file')).st_nlink"), 2);
    assert.equal(await sys.run("os.stat(p('empty')).st_nlink"), 1);
    assert.equal(await sys.run("os.stat(p('dir')).st_nlink"), 3);
    assert.equal(await sys.run("os.stat(p('dir/sub')).st_nlink"), 2);
  });

  await lines.test("S10: readdir gives every entry once with its type, and is kept", async () => {
    const list = `
fd = os.open(p('many'), os.O_RDONLY | os.O_DIRECTORY)
buffer, found = ctypes.create_string_buffer(4096), []
while (size := check(libc.syscall(217, fd, buffer, 4096))) > 0:
    at = 0
    while at < size:
        ino, off, length, kind = struct.unpack_from('QqHB', buffer.raw, at)
        found.append([off, kind, buffer.raw[at + 19:at + length].split(b'\\0')[0].decode()])
        at += length
os.close(fd)
`;
    const found = await sys.run<[number, number, string][]>(`${list}result = found`);
    assert.equal(found.length, manyCount + 2);
    assert.equal(new Set(found.map(([, , name]) => name)).size, manyCount + 2);
    for (const [, kind, name] of found) assert.equal(kind, name === "." || name === ".." ? 4 : 8, name);
    if (lines.keepsAll) assert.ok(await isKept(`${list}result = None`));
    const all = "[os.stat(p('many') + b'/' + name) for name in os.listdir(p('many'))] and None";
    if (lines.keepsAll) assert.ok(await isKept(all));
  });

  await lines.test("S11: a position in a directory can be returned to", async () => {
    const code = `
fd = os.open(p('many'), os.O_RDONLY | os.O_DIRECTORY)
def page():
    buffer, found, at = ctypes.create_string_buffer(2000), [], 0
    size = check(libc.syscall(217, fd, buffer, 2000))
    while at < size:
        ino, off, length, kind = struct.unpack_from('QqHB', buffer.raw, at)
        found.append([off, buffer.raw[at + 19:at + length].split(b'\\0')[0].decode()])
        at += length
    return found
first, second = page(), page()
os.lseek(fd, first[4][0], os.SEEK_SET)
again = page()
os.lseek(fd, 0, os.SEEK_SET)
start = page()
os.close(fd)
result = [first, second, again, start]
`;
    const [first = [], second = [], again = [], start] = await sys.run<[number, string][][]>(code);
    assert.deepEqual(start, first);
    assert.deepEqual(again.slice(0, first.length - 5), first.slice(5));
    assert.deepEqual(again[first.length - 5], second[0]);
  });

  await lines.test("S12: readlink gives the target, up to 4095 bytes, and is kept", async () => {
    assert.deepEqual(await sys.run("os.readlink(p('link'))"), { bytes: "dir/sub/leaf" });
    assert.equal(await sys.run("len(os.readlink(p('longlink')))"), 4095);
    if (lines.keepsAll) assert.ok(await isKept("os.readlink(p('longlink')) and None"));
    assert.equal(await sys.errno("os.readlink(p('file'))"), "EINVAL");
    assert.equal(await sys.errno("os.open(p('link'), os.O_NOFOLLOW)"), "ELOOP");
    assert.equal(await sys.errno("os.open(p('loop'), 0)"), "ELOOP");
    assert.equal(await sys.errno("os.open(p('dangling'), 0)"), "ENOENT");
  });

  await lines.test("S13: what is no directory is ENOTDIR where one is wanted", async () => {
    assert.equal(await sys.errno("os.stat(p('file/x'))"), "ENOTDIR");
    assert.equal(await sys.errno("os.listdir(p('file'))"), "ENOTDIR");
    assert.equal(await sys.errno("os.open(p('file'), os.O_DIRECTORY)"), "ENOTDIR");
  });

  await lines.test("S14: the kernel checks permissions by mode and owner", async () => {
    const as = (uid: number, call: string) => sys.run(`in_child(lambda: (become(${uid}), ${call}))`);
    assert.equal(await as(1003, "os.open(p('secret'), 0)"), "EACCES");
    assert.equal(await as(1003, "os.stat(p('private/inner'))"), "EACCES");
    assert.equal(await as(1003, "os.listdir(p('private'))"), "EACCES");
    assert.equal(await as(1003, "os.open(p('file'), 0)"), "EACCES");
    assert.equal(await as(1001, "os.open(p('file'), 0)"), null);
    assert.equal(await as(1003, "os.stat(p('secret'))"), null);
    assert.equal(await as(1003, "check(libc.access(p('script'), os.X_OK))"), null);
    assert.equal(await as(1003, "check(libc.access(p('secret'), os.R_OK))"), "EACCES");
  });

  await lines.test("S15: POSIX ACLs count", async () => {
    const open = (uid: number) => sys.run(`in_child(lambda: (become(${uid}), os.open(p('acl'), 0)))`);
    assert.deepEqual([await open(1000), await open(1003)], [null, "EACCES"]);
    assert.deepEqual(await sys.run("os.getxattr(p('acl'), 'system.posix_acl_access')"), { bytes: latin1(accessAcl) });
    assert.equal(await sys.errno("os.getxattr(p('dir'), 'system.posix_acl_default')"), "ENODATA");
  });

  await lines.test("S17: xattrs are listed and read, of any size", async () => {
    assert.deepEqual(await sys.run("sorted(os.listxattr(p('attrs')))"), [
      "security.capability",
      "trusted.overlay.opaque",
      "user.big",
      "user.empty",
      "user.one",
    ]);
    assert.deepEqual(await sys.run("os.getxattr(p('attrs'), 'user.one')"), { bytes: "two" });
    assert.deepEqual(await sys.run("os.getxattr(p('attrs'), 'user.empty')"), { bytes: "" });
    assert.deepEqual(await sys.run("os.getxattr(p('attrs'), 'user.big')"), { bytes: latin1(noise(1500, 3)) });
    assert.equal(await sys.run("check(libc.getxattr(p('attrs'), b'user.big', None, 0))"), 1500);
    assert.equal(await sys.run("check(libc.listxattr(p('attrs'), None, 0))"), 72);
    assert.deepEqual(await sys.run("os.listxattr(p('file'))"), []);
  });

  await lines.test(
    "S18: xattr errors: ENODATA for a missing one, ERANGE for a buffer or name of the wrong size",
    async () => {
      const buffer = (size: number) => `ctypes.create_string_buffer(${size}), ${size}`;
      assert.equal(await sys.errno("os.getxattr(p('attrs'), 'user.none')"), "ENODATA");
      const foreign = await sys.errno("os.getxattr(p('file'), 'nosuch.namespace')");
      assert.equal(foreign, lines.inKernel ? "ENOTSUP" : "ENODATA");
      assert.equal(await sys.errno(`check(libc.getxattr(p('attrs'), b'user.big', ${buffer(1499)}))`), "ERANGE");
      assert.equal(await sys.errno(`check(libc.listxattr(p('attrs'), ${buffer(71)}))`), "ERANGE");
      assert.equal(await sys.errno("os.getxattr(p('attrs'), 'user.' + 'x' * 251)"), "ERANGE");
    },
  );

  await lines.test("S19: trusted.* is for root", async () => {
    const names = "os.listxattr(p('attrs'))";
    const seen = await sys.run<string>(
      `import subprocess\nresult = subprocess.run(['python3', '-c', 'import os, sys; print(sorted(os.listxattr(sys.argv[1])))', p('attrs')], user=1003, group=1003, extra_groups=[], capture_output=True, text=True).stdout`,
    );
    assert.equal(seen, "['security.capability', 'user.big', 'user.empty', 'user.one']\n");
    assert.ok((await sys.run<string[]>(names)).includes("trusted.overlay.opaque"));
    const get = "in_child(lambda: (become(1003), os.getxattr(p('attrs'), 'trusted.overlay.opaque')))";
    assert.equal(await sys.run(get), "ENODATA");
  });

  await lines.test("S20: security.capability is byte for byte the tar's", async () => {
    const got = await sys.run("os.getxattr(p('attrs'), 'security.capability')");
    assert.deepEqual(got, { bytes: latin1(capability) });
  });

  await lines.test("S21: statfs describes a full, read-only file system", async () => {
    const [bsize, frsize, blocks, bfree, bavail, files, ffree, favail, flags = 0, namemax] =
      await sys.run<number[]>("list(os.statvfs(mnt))");
    const block = lines.inKernel ? 512 : 4096;
    assert.deepEqual([bsize, frsize, bfree, bavail, namemax], [block, block, 0, 0, 255]);
    assert.equal(flags & 1, 1);
    const { inodeCount, sizeBytes, devices } = tree.image.info();
    if (!lines.inKernel) assert.deepEqual([files, ffree, favail], [inodeCount, 0, 0]);
    assert.equal(blocks, Math.ceil((sizeBytes + (devices[0]?.blocks ?? 0) * 512) / block));
    const type = "buffer = ctypes.create_string_buffer(256)\ncheck(libc.statfs(mnt, buffer))\n";
    const magic = lines.inKernel ? 0xe0f5e1e2 : 0x65735546;
    assert.equal(await sys.run(`${type}result = struct.unpack_from('q', buffer.raw)[0]`), magic);
  });

  await lines.test("S22: device nodes are devices", async () => {
    const rdev = (name: string) => sys.run(`[os.major(d := os.lstat(p('${name}')).st_rdev), os.minor(d)]`);
    assert.deepEqual(
      [await rdev("null"), await rdev("wide"), await rdev("disk")],
      [
        [1, 3],
        [300, 70_000],
        [7, 200],
      ],
    );
    assert.deepEqual(await sys.run("open(p('null'), 'rb').read(1)"), { bytes: "" });
    assert.equal(await sys.errno("os.open(p('wide'), 0)"), "ENXIO");
  });

  await lines.test("S23: nodev, nosuid and noexec do what mount(8) says", async () => {
    await using locked = await lines.start({ flags: { nodev: true, nosuid: true, noexec: true } });
    const { sys: other } = locked;
    assert.equal(await other.errno("os.open(p('null'), 0)"), "EACCES");
    assert.equal(await other.errno("os.execv(p('script'), ['script'])"), "EACCES");
    assert.equal(await other.run("os.statvfs(mnt).f_flag & (os.ST_NODEV | os.ST_NOSUID | os.ST_NOEXEC)"), 14);
    assert.equal(await sys.run("os.statvfs(mnt).f_flag & (os.ST_NODEV | os.ST_NOSUID | os.ST_NOEXEC)"), 0);
  });

  await lines.test("S24: a fifo is a pipe between local processes", async () => {
    const code = `
reader = os.open(p('fifo'), os.O_RDONLY | os.O_NONBLOCK)
writer = os.open(p('fifo'), os.O_WRONLY)
os.write(writer, b'through')
result = os.read(reader, 100)
`;
    assert.deepEqual(await sys.run(code), { bytes: "through" });
  });

  await lines.test("S25: file handles work, also where the kernel has not seen the inode yet", async () => {
    assert.deepEqual(await sys.run("os.read(open_by_handle(*name_to_handle('file')), 100)"), { bytes: "hello\n" });
    const handles = "[[kind, list(data)] for kind, data in map(name_to_handle, ['dir/sub/leaf', 'dir/sub', ''])]";
    const [leaf, sub, root] = await sys.run<[number, number[]][]>(handles);
    await using another = await lines.start();
    const { tree: again, sys: other } = another;
    const opened = (handle: unknown) =>
      `open_by_handle(${JSON.stringify(handle).slice(1, -1).replace("[", "bytes([")}))`;
    assert.equal(await other.run(`os.fstat(${opened(leaf)}).st_size`), 5000);
    assert.equal(await other.run(`os.readlink('/proc/self/fd/%d' % ${opened(sub)})`), `${again.mountpoint}/dir/sub`);
    assert.equal(await other.run(`os.readlink('/proc/self/fd/%d' % ${opened(root)})`), again.mountpoint);
    assert.equal(await sys.errno("open_by_handle(0x81, struct.pack('<QI', 0x7fffffffffff, 0))"), "ESTALE");
  });

  await lines.test("S26: it can be the lower layer of an overlay", async () => {
    const code = `
import subprocess, tempfile
base = tempfile.mkdtemp()
script = '''mount -t tmpfs none %(b)s && mkdir %(b)s/u %(b)s/w %(b)s/m &&
mount -t overlay none %(b)s/m -o lowerdir=%(m)s,upperdir=%(b)s/u,workdir=%(b)s/w &&
cat %(b)s/m/file && echo more >> %(b)s/m/file && rm %(b)s/m/empty && cat %(b)s/m/file && ls %(b)s/m/many | wc -l &&
test ! -e %(b)s/m/empty && getfattr --absolute-names --only-values -n user.one %(b)s/m/attrs''' % {'b': base, 'm': os.fsdecode(mnt)}
done = subprocess.run(['unshare', '-m', 'sh', '-ec', script], capture_output=True, text=True)
os.rmdir(base)
result = [done.returncode, done.stdout, done.stderr]
`;
    assert.deepEqual(await sys.run(code), [0, `hello\nhello\nmore\n${manyCount}\ntwo`, ""]);
    assert.deepEqual(await sys.run("open(p('file'), 'rb').read()"), { bytes: "hello\n" });
  });
});

testDrivers("a damaged tarindex", async (lines) => {
  await lines.test("S27: what is damaged is EIO, what is not is served", async () => {
    await using whole = await lines.start();
    const nid = await whole.sys.run<number>("os.stat(p('precise')).st_ino");
    const patchIndex = async (path: string) => {
      await using file = await open(path, "r+");
      const super32 = Buffer.alloc(128);
      await file.read(super32, 0, 128, 1024);
      const metaBytes = super32.readUInt32LE(40) << super32.readUInt8(12);
      // The inode's format word: a layout that does not exist.
      await file.write(Buffer.from([0xff, 0x00]), 0, 2, metaBytes + nid * 32);
    };
    await using damaged = await lines.start({ patchIndex });
    const { sys } = damaged;
    const code = await sys.errno("os.stat(p('precise'))");
    assert.ok(code === "EIO" || code === "ENOTSUP", code);
    assert.deepEqual(await sys.run("open(p('file'), 'rb').read()"), { bytes: "hello\n" });
    assert.equal(await sys.run("len(os.listdir(p('many')))"), manyCount);
  });
});

test("S16: where no file has an xattr the kernel is told so once, and asks no more", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const tar = buildTar([
    { path: "a", data: "1" },
    { path: "b", data: "2" },
    { path: "dir/", type: "directory" },
  ]);
  await using tree = await MountedTree.mount(tar);
  await using sys = await Syscalls.start(tree.mountpoint);
  assert.equal(await sys.errno("os.getxattr(p('a'), 'security.selinux')"), "ENOTSUP");
  assert.equal(await sys.run("[os.stat(p(name)).st_size for name in ['a', 'b', 'dir']] and None"), null);
  const before = tree.mounted.stats().requests;
  for (const name of ["a", "b", "dir"]) {
    assert.equal(await sys.errno(`os.getxattr(p('${name}'), 'user.x')`), "ENOTSUP");
  }
  assert.equal(tree.mounted.stats().requests, before);
  assert.deepEqual(await sys.run("os.listxattr(p('a'))"), []);
  // What the kernel asks for by itself goes on: access checks, with ACLs, and programs' capabilities.
  assert.equal(await sys.run("os.access(p('a'), os.R_OK)"), true);
  assert.deepEqual(await sys.run("open(p('b'), 'rb').read()"), { bytes: "2" });
  // An index that others made may have xattrs and not say so.
  await using foreign = await MountedTree.mount(tar, { index: tarindexOfTar(tar) });
  await using others = await Syscalls.start(foreign.mountpoint);
  assert.equal(await others.errno("os.getxattr(p('a'), 'user.x')"), "ENODATA");
  assert.deepEqual(await others.run("os.listxattr(p('a'))"), []);
});
