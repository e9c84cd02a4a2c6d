import { write } from "node:fs";
import { OcifsError } from "../base/errors.js";

/** pwrite(2) of all of `bytes` at `offset`; a full disk or quota is `no-space`, anything else `io`. */
export async function writeFully(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    done += await new Promise<number>((resolve, reject) => {
      write(fd, bytes, done, bytes.length - done, offset + done, (error, written) => {
        if (!error) return resolve(written);
        const code = error.code === "ENOSPC" || error.code === "EDQUOT" ? "no-space" : "io";
        reject(
          new OcifsError(code, `cache write of ${bytes.length} bytes at ${offset}: ${error.message}`, { cause: error }),
        );
      });
    });
  }
}
