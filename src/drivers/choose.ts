import { OcifsError } from "../base/errors.js";
import type { Driver, DriverName, MountRequest } from "./driver.js";
import { fuseDriver } from "./fuse.js";

export interface ChosenDriver {
  readonly driver: Driver;
  /** For the log and `ocifs status`, in a few words. */
  readonly reason: string;
}

/** All there are, the one that `auto` likes best first. */
const drivers: readonly Driver[] = [fuseDriver];

/** What `driver=` asks for, or the best that works here. Throws `unsupported` with the reason when it cannot be had. */
export async function chooseDriver(wanted: DriverName | "auto", request: MountRequest): Promise<ChosenDriver> {
  if (wanted !== "auto") {
    const driver = driverOf(wanted);
    const why = await driver.unavailable(request);
    if (why !== undefined) throw new OcifsError("unsupported", `driver=${wanted} does not work here: ${why}`);
    return { driver, reason: "asked for" };
  }
  const passedOver: string[] = [];
  for (const driver of drivers) {
    const why = await driver.unavailable(request);
    if (why === undefined) {
      return { driver, reason: passedOver.length > 0 ? passedOver.join("; ") : "the fastest that works here" };
    }
    passedOver.push(`not ${driver.name}: ${why}`);
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
