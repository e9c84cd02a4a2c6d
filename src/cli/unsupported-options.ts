import { OcifsError } from "../base/errors.js";
import type { MountOptions } from "./mount-options.js";

/**
 * Refuses options that are part of the command line but do nothing yet: an option that is taken and has no effect would
 * leave its user believing that it has. Throws `unsupported`.
 */
export function refuseUnsupportedOptions(options: Pick<MountOptions, "cacheSizeBytes">): void {
  if (options.cacheSizeBytes !== undefined) {
    throw new OcifsError(
      "unsupported",
      "cachesize: this version does not limit its cache; leave cachesize= out, and remove files of unmounted layers by hand",
    );
  }
}
