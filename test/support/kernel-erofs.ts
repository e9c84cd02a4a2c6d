import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, rmdir } from "node:fs/promises";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { sharedTool } from "./fixtures.js";

const run = promisify(execFile);

/** mount(2) itself: util-linux's mount does not pass `device=` of a regular file on. */
const mountScript = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
source, target, options = (os.fsencode(a) for a in sys.argv[1:4])
MS_RDONLY = 1
if libc.mount(source, target, b"erofs", MS_RDONLY, options) != 0:
    sys.exit(f"mount {source!r}: {os.strerror(ctypes.get_errno())}")
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
    await run("python3", ["-c", mountScript, image, directory, devices.map((d) => `device=${d}`).join(",")]);
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
