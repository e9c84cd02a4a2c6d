import { join } from "node:path";
import { repositoryRoot } from "../support/fixtures.js";
import { startProcess } from "../support/process.js";
import type { Bench } from "./bench.js";
import { unmount } from "./mounts.js";

const program = join(repositoryRoot, "dist", "test", "bench", "fuse-native-server.js");

export interface FuseNativeMount extends AsyncDisposable {
  readonly directory: string;
}

/** Mounts with the package fuse-native in a process of its own; see fuse-native-server.ts for the arguments. */
export async function mountFuseNative(
  bench: Bench,
  kind: "memory" | "file" | "tree",
  source: string,
): Promise<FuseNativeMount> {
  const directory = await bench.mountpoint();
  const server = await startProcess(process.execPath, [program, directory, kind, source], /^ready$/);
  return {
    directory,
    async [Symbol.asyncDispose]() {
      await unmount(directory);
      await server.stop();
    },
  };
}
