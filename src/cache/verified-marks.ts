import { open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { type Digest, parseDigest } from "../oci/digest.js";

/** A cache file of a blob that can be whole: the blob as served, or its tar as one span table divides it. */
export type WholeFile = "compressed" | `data-${string}`;

/**
 * Marks that a cache file holds all of its bytes, flushed, and that their digest is right: a file beside it, so that marks
 * of several files and processes do not meet. Layout: docs/FORMATS.md. Write one only after the file was flushed; take it away
 * before any byte is given up.
 */
export async function markVerified(blobDirectory: string, name: WholeFile, digest: Digest): Promise<void> {
  const path = markPath(blobDirectory, name);
  const temporary = `${path}.${process.pid}`;
  try {
    {
      await using file = await open(temporary, "w", 0o600);
      await file.writeFile(`${digest}\n`);
      await file.sync();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new OcifsError("io", `mark ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** The digest that was verified, or undefined. The file may have been evicted in part since by a crash: look at its holes, too. */
export async function verifiedDigest(blobDirectory: string, name: WholeFile): Promise<Digest | undefined> {
  const path = markPath(blobDirectory, name);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new OcifsError("io", `mark ${path}: ${messageOf(cause)}`, { cause });
  }
  return parseDigest(text.trim());
}

/** Resolves when the mark is gone from the disk. */
export async function clearVerified(blobDirectory: string, name: WholeFile): Promise<void> {
  const path = markPath(blobDirectory, name);
  try {
    await rm(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return;
    throw new OcifsError("io", `mark ${path}: ${messageOf(cause)}`, { cause });
  }
  await using directory = await open(blobDirectory, "r");
  await directory.sync();
}

function markPath(blobDirectory: string, name: WholeFile): string {
  return join(blobDirectory, `${name}.verified`);
}
