import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** dist/test/support/fixtures.js → the package's root. */
const repoRoot = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

/** Path of a file made by another tool; OCIFS_SHARED names the directory when it is not beside the repository. */
export function sharedFixture(name: string): string {
  return join(process.env.OCIFS_SHARED ?? join(repoRoot, "..", "shared"), "fixtures", name);
}
