import { cpus, release, totalmem } from "node:os";
import { version } from "../../src/base/version.js";
import type { Bench } from "./bench.js";
import { otherToolsOnPath } from "./reference-mounts.js";

export interface Machine {
  readonly kernel: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** Program → version, or the first line it prints of itself. */
  readonly versions: Readonly<Record<string, string>>;
  readonly otherTools: readonly string[];
}

/** Programs that figures depend on, and how each tells its version. */
const asked: readonly (readonly [program: string, ...words: string[]])[] = [
  ["git", "rev-parse", "--short", "HEAD"],
  ["skopeo", "--version"],
  ["umoci", "--version"],
  ["docker-registry", "--version"],
  ["pkg-config", "--modversion", "fuse3"],
  ["pigz", "--version"],
  ["dpkg-query", "--show", "erofs-utils"],
  ["find", "--version"],
  ["tar", "--version"],
  ["cc", "--version"],
];

const names: Readonly<Record<string, string>> = {
  git: "commit",
  "pkg-config": "libfuse",
  "dpkg-query": "erofs-utils",
};

export async function describeMachine(bench: Bench): Promise<Machine> {
  const list = cpus();
  const versions: Record<string, string> = { ocifs: version, node: process.version };
  for (const [program, ...words] of asked) {
    // Some write it to standard error; a checkout without git has no commit.
    const { stdout } = await bench.pipeline('"$@" 2>&1 || true', program, ...words);
    versions[names[program] ?? program] = stdout.split("\n")[0] ?? "";
  }
  return {
    kernel: release(),
    cpu: list[0]?.model ?? "unknown",
    cores: list.length,
    memoryBytes: totalmem(),
    versions,
    otherTools: await otherToolsOnPath(),
  };
}
