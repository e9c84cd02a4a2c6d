import { execFile } from "node:child_process";
import { mkdtemp, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** False, or why tests that mount cannot run here. */
export const skipWithoutRoot = process.getuid?.() === 0 ? false : "NOT RUN: mounting EROFS needs root";

/** Mounts an EROFS image file with the kernel's own driver for the duration of `use`. */
export async function withKernelErofs<T>(image: string, use: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "ocifs-mnt-"));
  try {
    await run("mount", ["-t", "erofs", "-o", "ro", image, directory]);
    try {
      return await use(directory);
    } finally {
      await run("umount", [directory]);
    }
  } finally {
    await rmdir(directory);
  }
}
