import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** dist/test/support/fixtures.js → the repository's root. */
export const repositoryRoot = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

/** A file under the shared fixtures: `OCIFS_SHARED`, or the directory `shared` beside the repository. */
export function sharedFixture(name: string): string {
  return join(process.env.OCIFS_SHARED ?? join(repositoryRoot, "..", "shared"), "fixtures", name);
}
