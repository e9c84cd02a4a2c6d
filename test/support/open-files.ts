import { readdirSync, readlinkSync, statSync } from "node:fs";

/** What the descriptors of this process point at, sorted; a memory file of ours as `memfd`. */
export function openFiles(): string[] {
  const targets: string[] = [];
  for (const fd of readdirSync("/proc/self/fd")) {
    const target = targetOf(fd);
    if (target !== undefined) targets.push(target);
  }
  return targets.sort();
}

/** Bytes that memory files of this process hold. */
export function memoryFileBytes(): number {
  let sum = 0;
  for (const fd of readdirSync("/proc/self/fd")) {
    if (targetOf(fd)?.startsWith("/memfd:ocifs")) sum += statSync(`/proc/self/fd/${fd}`).blocks * 512;
  }
  return sum;
}

/** Undefined for the descriptor of the listing itself, which is closed by now. */
function targetOf(fd: string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
