import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** dist/test/support/fixtures.js → the repository's root. */
export const repositoryRoot = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

const sharedRoot = process.env.OCIFS_SHARED ?? join(repositoryRoot, "..", "shared");

/** The path of a file made by another tool, `erofs-utils-1.9.3/layer.tar.gz`. */
export function sharedFixture(name: string): string {
  return join(sharedRoot, "fixtures", name);
}

/** The path of a tool shared by the tests, `tree-listing.py`. */
export function sharedTool(name: string): string {
  return join(sharedRoot, "tools", name);
}
