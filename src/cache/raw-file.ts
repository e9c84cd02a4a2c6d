import { close, constants, fstat, ftruncate, open, read, write } from "node:fs";
import { open as openFile } from "node:fs/promises";
import { messageOf, OcifsError } from "../base/errors.js";

/** Of <fcntl.h>, O_DIRECTORY among it. */
const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;

/**
 * Plain descriptors for files that are handed to native code: a FileHandle would close them when it is collected.
 * "update" opens for reading and writing; "create" also makes the file (0600) when it is missing.
 */
export function openFd(path: string, mode: "read" | "update" | "create"): Promise<number> {
  // No O_TRUNC: another process may be using the file.
  const flags = { read: constants.O_RDONLY, update: constants.O_RDWR, create: constants.O_RDWR | constants.O_CREAT }[
    mode
  ];
  return new Promise((resolve, reject) => open(path, flags, 0o600, settle(resolve, reject, `open ${path}`)));
}

/** A file (0600) without a name, to read and write, that is gone when nobody has it open. */
export function openUnnamed(directory: string): Promise<number> {
  const flags = constants.O_RDWR | O_TMPFILE;
  return new Promise((resolve, reject) =>
    open(directory, flags, 0o600, settle(resolve, reject, `make a file in ${directory}`)),
  );
}

export function closeFd(fd: number): Promise<void> {
  return new Promise((resolve, reject) => close(fd, settle(resolve, reject, "close")));
}

export function sizeOfFd(fd: number): Promise<number> {
  return new Promise((resolve, reject) =>
    fstat(fd, (error, stats) => (error ? reject(toOcifsError(error, "stat cache file")) : resolve(stats.size))),
  );
}

export function truncateFd(fd: number, sizeBytes: number): Promise<void> {
  return new Promise((resolve, reject) => ftruncate(fd, sizeBytes, settle(resolve, reject, "resize cache file")));
}

/** Reads into `buffer` from `offset`; the number of bytes, 0 at the end of the file. */
export function readAt(fd: number, buffer: Uint8Array, offset: number): Promise<number> {
  return new Promise((resolve, reject) =>
    read(fd, buffer, 0, buffer.length, offset, settle(resolve, reject, "read cache file")),
  );
}

/** Fills `out` from `offset`; a file that ends before is an `io` error. */
export async function readFully(fd: number, out: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < out.length; ) {
    const bytes = await readAt(fd, out.subarray(done), offset + done);
    if (bytes === 0)
      throw new OcifsError("io", `cache file: it ends at ${offset + done}; another process shortened it`);
    done += bytes;
  }
}

/** pwrite(2) of all of `bytes` at `offset`; a full disk or quota is `no-space`, anything else `io`. */
export async function writeFully(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    done += await new Promise<number>((resolve, reject) => {
      const what = `cache write of ${bytes.length} bytes at ${offset}`;
      write(fd, bytes, done, bytes.length - done, offset + done, settle(resolve, reject, what));
    });
  }
}

/** fdatasync(2). It writes out what was written to the file through a mapping as well. */
export async function flushFile(path: string): Promise<void> {
  try {
    await using file = await openFile(path, "r");
    await file.datasync();
  } catch (cause) {
    throw new OcifsError("io", `flush of ${path}: ${messageOf(cause)}`, { cause });
  }
}

function settle<T>(resolve: (value: T) => void, reject: (error: OcifsError) => void, what: string) {
  return (error: NodeJS.ErrnoException | null, value?: T) => {
    if (error) reject(toOcifsError(error, what));
    else resolve(value as T);
  };
}

function toOcifsError(error: NodeJS.ErrnoException, what: string): OcifsError {
  const code = error.code === "ENOSPC" || error.code === "EDQUOT" ? "no-space" : "io";
  return new OcifsError(code, `${what}: ${error.message}`, { cause: error });
}
