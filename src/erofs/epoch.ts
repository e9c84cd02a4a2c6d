import type { InodeTable } from "./inode-table.js";

/**
 * The most frequent mtime among inodes with links (ties: the earlier one): inodes with just this time take the 32-byte form, and reproducible
 * builds give most files one time. Times before 1970 are passed over, since readers take the superblock's epoch as unsigned.
 */
export function commonMtime(inodes: InodeTable, linkCounts: Uint32Array): { seconds: number; nanoseconds: number } {
  const seconds = mostFrequent(inodes, linkCounts, (inode) => inodes.mtimeSeconds(inode));
  const nanoseconds = mostFrequent(inodes, linkCounts, (inode) =>
    inodes.mtimeSeconds(inode) === seconds ? inodes.mtimeNanoseconds(inode) : -1,
  );
  return { seconds, nanoseconds };
}

/** The most frequent value that is not negative; 0 if there is none. */
function mostFrequent(inodes: InodeTable, linkCounts: Uint32Array, mtimePart: (inode: number) => number): number {
  const counts = new Map<number, number>();
  for (let inode = 0; inode < inodes.count; inode++) {
    if (linkCounts[inode] === 0) continue;
    const value = mtimePart(inode);
    if (value >= 0) counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  let best = 0;
  let bestCount = 0;
  for (const [value, count] of counts) {
    if (count > bestCount || (count === bestCount && value < best)) {
      best = value;
      bestCount = count;
    }
  }
  return best;
}
