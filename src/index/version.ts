import { createRequire } from "node:module";

/** dist/src/index/version.js → the package's own package.json. */
const { version } = createRequire(import.meta.url)("../../../package.json") as { version: string };

/** What an index says wrote it. */
export const generator = `ocifs ${version}`;
