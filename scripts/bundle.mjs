#!/usr/bin/env node
// Joins the modules of each program into one file in dist/programs/bin, beside it the parts that only some runs need
// (every import() in the source). Node takes longer to find and link a hundred files than to run them.
//
//   scripts/bundle.mjs
//
// The files lie as deep below the package as the compiled modules do in dist/src, since both look for package.json and the
// native addon from where they are. Names are kept, and NODE_OPTIONS=--enable-source-maps shows the lines of the sources.
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(fileURLToPath(import.meta.url), "..", "..");
const programs = join(root, "dist", "programs");
const staging = join(root, "dist", `.programs-${process.pid}`);
const entries = ["src/cli/mount-ocifs.ts", "src/cli/ocifs.ts", "src/daemon/main.ts"];

try {
  await mkdir(staging, { recursive: true });
  // One build each: parts that two programs share would be files that both have to find.
  for (const entry of entries) {
    await build({
      absWorkingDir: root,
      entryPoints: [entry],
      outdir: join(staging, "bin"),
      chunkNames: "part-[hash]",
      bundle: true,
      splitting: true,
      format: "esm",
      platform: "node",
      target: "node20.19",
      sourcemap: true,
      legalComments: "eof",
      logLevel: "warning",
      // CommonJS packages call the require that modules do not have.
      banner: {
        js: 'import { createRequire as createRequireForBundle } from "node:module"; const require = createRequireForBundle(import.meta.url);',
      },
    });
  }
  await rm(programs, { recursive: true, force: true });
  await rename(staging, programs);
} finally {
  await rm(staging, { recursive: true, force: true });
}
