import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";

/**
 * mkdir -p. Not fs.mkdir's own `recursive`: where a directory cannot be made and its parent is there all the same (in /proc,
 * which answers ENOENT), Node 20's runs for ever.
 */
export async function ensureDirectory(path: string, mode = 0o777): Promise<void> {
  try {
    await makeUnlessThere(path, mode);
  } catch (error) {
    const parent = dirname(path);
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || parent === path) throw error;
    await ensureDirectory(parent, mode);
    await makeUnlessThere(path, mode);
  }
}

/** What is there and is no directory shows when it is used as one. */
async function makeUnlessThere(path: string, mode: number): Promise<void> {
  await mkdir(path, { mode }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
}
