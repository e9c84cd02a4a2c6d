import { constants } from "node:os";
import { OcifsError, type OcifsErrorCode } from "./errors.js";

/**
 * What a reader of a mounted file sees for each failure. read(2) has few honest answers: data that cannot be had is EIO;
 * ENOENT or EACCES for the *content* of a file that exists would mislead programs that branch on them.
 */
const errnoByCode: Record<OcifsErrorCode, number> = {
  usage: constants.errno.EINVAL,
  "not-found": constants.errno.EIO,
  unauthorized: constants.errno.EIO,
  denied: constants.errno.EIO,
  network: constants.errno.EIO,
  timeout: constants.errno.EIO,
  corrupt: constants.errno.EIO,
  mismatch: constants.errno.EIO,
  unsupported: constants.errno.EOPNOTSUPP,
  limit: constants.errno.EIO,
  io: constants.errno.EIO,
  "no-space": constants.errno.EIO,
  busy: constants.errno.EBUSY,
  aborted: constants.errno.EINTR,
  internal: constants.errno.EIO,
};

/** The errno (positive) of the system call whose failure an OcifsError tells of; undefined for all other errors. */
export function systemErrnoOf(error: unknown): number | undefined {
  return error instanceof OcifsError ? (error.cause as { errno?: number } | undefined)?.errno : undefined;
}

/** The errno (positive) with which a failed read of file content is answered. */
export function errnoOfReadError(error: unknown): number {
  return error instanceof OcifsError ? errnoByCode[error.code] : constants.errno.EIO;
}
