import { OcifsError } from "../base/errors.js";
import type { FdMethod } from "./methods.js";
import { textIn } from "./params.js";

/** What comes of a mount. A remount has neither daemon nor driver to tell of. */
export interface SocketMount {
  /** The real path of where it is. */
  readonly mountpoint: string;
  readonly pid?: number;
  readonly driver?: string;
  readonly warnings: readonly string[];
}

export interface MountParameters {
  readonly image: string;
  readonly mountpoint: string;
  /** A list as behind `-o`; may be empty. */
  readonly options: string;
}

/** Makes and ends mounts for clients. Whoever serves brings it, since the words of the options are the command line's. */
export interface Mounter {
  /** Resolves when the mount answers. The signal ends the attempt, not the mount. */
  mount(parameters: MountParameters, signal: AbortSignal): Promise<SocketMount>;
  /** Only what ocifs has mounted; `lazy` also while it is in use. */
  unmount(mountpoint: string, lazy: boolean): Promise<void>;
}

export function mountMethods(mounter: Mounter): Record<string, FdMethod> {
  return {
    /** `{image, mountpoint, options?}` → `{mountpoint, pid, driver, warnings}` */
    mount: async (params, signal) => {
      const { options = "" } = params;
      if (typeof options !== "string") throw new OcifsError("usage", "params: want options, a string as behind -o");
      const parameters = { image: textIn(params, "image"), mountpoint: textIn(params, "mountpoint"), options };
      return { result: await mounter.mount(parameters, signal) };
    },
    /** `{mountpoint, lazy?}` → `{}` */
    umount: async (params) => {
      await mounter.unmount(textIn(params, "mountpoint"), params.lazy === true);
      return { result: {} };
    },
  };
}
