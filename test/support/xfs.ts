import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { runProgram } from "./process.js";

/** An XFS on a loop device, where files can share extents; it goes with the test. Needs root. */
export async function mountXfs(t: TestContext, size = "512M"): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "ocifs-test-"));
  const image = join(directory, "image");
  const path = join(directory, "mnt");
  await mkdir(path);
  await runProgram("truncate", ["-s", size, image]);
  await runProgram("mkfs.xfs", ["-q", "-m", "reflink=1", image]);
  await runProgram("mount", ["-o", "loop", image, path]);
  t.after(async () => {
    await runProgram("umount", ["-l", path]);
    await rm(directory, { recursive: true, force: true });
  });
  return path;
}
