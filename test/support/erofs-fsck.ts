import { execFile } from "node:child_process";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { repositoryRoot } from "./fixtures.js";

const run = promisify(execFile);

/** Checks an EROFS image, its data on these devices included, with a current fsck.erofs; rejects when it finds anything wrong. */
export async function checkErofs(image: string, devices: readonly string[]): Promise<void> {
  const state = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "ocifs");
  const { stdout } = await run(join(repositoryRoot, "scripts", "erofs-tools"), [state]);
  const [program = "", ...args] = stdout.trim().split("\n");
  await run(program, [...args, "--extract", ...devices.map((device) => `--device=${device}`), image]);
}
