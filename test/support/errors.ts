import assert from "node:assert/strict";
import { OcifsError, type OcifsErrorCode } from "../../src/base/errors.js";

/** Asserts that a promise rejects with an OcifsError of this code, and returns the error. */
export async function rejectsWith(promise: Promise<unknown>, code: OcifsErrorCode): Promise<OcifsError> {
  let result: unknown;
  try {
    result = await promise;
  } catch (error) {
    return checkCode(error, code);
  }
  return assert.fail(`resolved with ${String(result)}; want an OcifsError "${code}"`);
}

/** Asserts that a call throws an OcifsError of this code, and returns the error. */
export function throwsWith(call: () => unknown, code: OcifsErrorCode): OcifsError {
  try {
    call();
  } catch (error) {
    return checkCode(error, code);
  }
  return assert.fail(`returned; want an OcifsError "${code}"`);
}

function checkCode(error: unknown, code: OcifsErrorCode): OcifsError {
  if (!(error instanceof OcifsError)) throw error;
  assert.equal(error.code, code, error.message);
  return error;
}
