import { OcifsError } from "../base/errors.js";
import type { MountOptions } from "./mount-options.js";

/**
 * Refuses options that are part of the command line but do nothing yet: an option that is taken and has no effect would
 * leave its user believing that it has. Throws `unsupported`.
 */
export function refuseUnsupportedOptions(options: Pick<MountOptions, "prefetch">): void {
  if (options.prefetch !== "none") {
    throw new OcifsError(
      "unsupported",
      `prefetch=${options.prefetch}: this version fetches only what is read; leave prefetch= out or say prefetch=none`,
    );
  }
}
