import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, rmdir } from "node:fs/promises";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { sharedTool } from "./fixtures.js";

const run = promisify(execFile);

/**
 * The mount API of Linux 5.2 itself: util-linux's mount does not pass `device=` of a regular file on, and mount(2) takes one page of options,
 * which the devices of an image of many layers do not fit.
 */
const mountScript = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
FSOPEN, FSCONFIG, FSMOUNT, MOVE_MOUNT = 430, 431, 432, 429
SET_FLAG, SET_STRING, CREATE, RDONLY, EMPTY_PATH, AT_FDCWD = 0, 1, 6, 1, 4, -100
source, target, *devices = (os.fsencode(a) for a in sys.argv[1:])
def call(*args):
    result = libc.syscall(*args)
    if result < 0:
        error = os.strerror(ctypes.get_errno())
        os.set_blocking(fs, False)
        log = []
        try:
            while True: log.append(os.read(fs, 4096).decode(errors="replace"))
        except OSError: pass
        sys.exit(f"mount {source!r}: {error} {log}")
    return result
fs = libc.syscall(FSOPEN, b"erofs", 0)
call(FSCONFIG, fs, SET_FLAG, b"ro", None, 0)
call(FSCONFIG, fs, SET_STRING, b"source", source, 0)
for device in devices:
    call(FSCONFIG, fs, SET_STRING, b"device", device, 0)
call(FSCONFIG, fs, CREATE, None, None, 0)
call(MOVE_MOUNT, call(FSMOUNT, fs, 0, RDONLY), b"", AT_FDCWD, target, EMPTY_PATH)
`;

/** Why tests that mount with the kernel's EROFS cannot run here; false when they can. */
export const cannotMountErofs: string | false = (() => {
  if (process.getuid?.() !== 0) return "mounting needs root";
  const [major = 0, minor = 0] = release()
    .split(".")
    .map((part) => Number.parseInt(part, 10));
  return major > 6 || (major === 6 && minor >= 12)
    ? false
    : `EROFS mounts files since Linux 6.12, this is ${release()}`;
})();

export interface KernelMount extends AsyncDisposable {
  readonly directory: string;
}

/** Mounts an EROFS image with the kernel's own driver, its source and devices being regular files (Linux 6.12 and root). */
export async function mountErofs(image: string, devices: readonly string[] = []): Promise<KernelMount> {
  const base = await mkdtemp(join(tmpdir(), "ocifs-erofs-"));
  const directory = join(base, "mnt");
  await mkdir(directory);
  try {
    await run("python3", ["-c", mountScript, image, directory, ...devices]);
  } catch (error) {
    await rm(base, { recursive: true });
    throw error;
  }
  return {
    directory,
    async [Symbol.asyncDispose]() {
      await run("umount", [directory]);
      await rmdir(directory);
      await rmdir(base);
    },
  };
}

/** One line of JSON an entry, sorted by path: type, mode, owner, time, links, size, digest, target, device, xattrs. */
export async function listTree(directory: string): Promise<string[]> {
  const { stdout } = await run("python3", [sharedTool("tree-listing.py"), directory], { maxBuffer: 1 << 28 });
  return stdout.trimEnd().split("\n");
}
