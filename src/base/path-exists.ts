import { access } from "node:fs/promises";
import { messageOf, OcifsError } from "./errors.js";

/** False for a path that is not there; any other reason not to see it is an `io` error. */
export async function pathExists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw new OcifsError("io", `${path}: ${messageOf(cause)}`, { cause });
  }
}
