import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import type { Driver, DriverName, Mounted, MountRequest } from "./driver.js";
import { erofsDriver } from "./erofs.js";
import { fanotifyDriver } from "./fanotify.js";
import { fuseDriver } from "./fuse.js";
import { fuseNativeDriver } from "./fuse-native.js";

export interface ChosenMount {
  readonly mounted: Mounted;
  /** Why this driver, for the log and `ocifs status`, in a few words. */
  readonly reason: string;
}

/**
 * What `auto` takes, the one that it likes best first. EROFS costs less for each read, but a read that fails is the kernel's to report, and
 * kernels differ in that (erofs-probe.ts): it has to be asked for.
 */
const automatic: readonly Driver[] = [fuseDriver, erofsDriver];

/** All there are. `fanotify` fails open and `fuse-native` is slow: whoever wants one of them has to say so. */
const drivers: readonly Driver[] = [...automatic, fanotifyDriver, fuseNativeDriver];

/**
 * Mounts with the driver that `driver=` asks for, or with the best that works here. Throws `unsupported` with the reason when it cannot be
 * had. For `auto` a driver that finds only while it mounts that the system lacks something is passed over as well; what is wrong with
 * the image or the mountpoint is thrown.
 */
export async function mountWithDriver(wanted: DriverName | "auto", request: MountRequest): Promise<ChosenMount> {
  if (wanted !== "auto") {
    const driver = driverOf(wanted);
    const why = await driver.unavailable(request);
    if (why !== undefined) throw new OcifsError("unsupported", `driver=${wanted} does not work here: ${why}`);
    return { mounted: await driver.mount(request), reason: "asked for" };
  }
  return await mountWithBest(automatic, request);
}

/** As `auto` does, of these, the best first. */
export async function mountWithBest(candidates: readonly Driver[], request: MountRequest): Promise<ChosenMount> {
  const passedOver: string[] = [];
  for (const driver of candidates) {
    const why = await driver.unavailable(request);
    if (why === undefined) {
      try {
        const mounted = await driver.mount(request);
        return { mounted, reason: passedOver.length > 0 ? passedOver.join("; ") : "the default" };
      } catch (error) {
        if (!isOcifsError(error, "unsupported")) throw error;
        passedOver.push(`not ${driver.name}: ${messageOf(error)}`);
      }
    } else {
      passedOver.push(`not ${driver.name}: ${why}`);
    }
  }
  throw new OcifsError("unsupported", `no driver works here: ${passedOver.join("; ")}`);
}

/** By its name; `unsupported` when this version does not have it. */
export function driverOf(name: DriverName): Driver {
  const driver = drivers.find((each) => each.name === name);
  if (driver) return driver;
  const names = drivers.map((each) => each.name).join(", ");
  throw new OcifsError("unsupported", `driver=${name}: this version of ocifs has ${names}; leave driver= out`);
}
