import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { noMountFlags } from "../../src/cli/standard-words.js";
import type { Driver, DriverName, MountRequest } from "../../src/drivers/driver.js";
import { erofsDriver } from "../../src/drivers/erofs.js";
import { whyErofsIsUnsafe } from "../../src/drivers/erofs-probe.js";
import { fuseDriver } from "../../src/drivers/fuse.js";
import { fuseNativeDriver } from "../../src/drivers/fuse-native.js";
import { MountedTree, type MountTreeOptions } from "./mounted-tree.js";
import { requireRootAndFuse, skipOrFail } from "./requires.js";
import { semanticsTar, spanBytes } from "./semantics-tree.js";
import { Syscalls } from "./syscalls.js";

/** A driver as the tests of docs/SEMANTICS.md see it. What it says here is what that page says of it. */
export interface TestedDriver {
  readonly driver: Driver;
  /** The kernel's own file system answers, not this process: S1 to S27 and errors of operations that it knows nothing of. */
  readonly inKernel: boolean;
  /** Listings, link targets and opens are asked for once; otherwise only names, attributes and pages are kept. */
  readonly keepsAll: boolean;
  /** What waits or is open when the daemon ends, and what the kernel would have to ask it for later. */
  readonly afterEnd: readonly string[];
  /** Lines of docs/SEMANTICS.md that it does not promise. Their tests do not run; the page lists the same ones. */
  readonly without: readonly string[];
  /** Whether tests of it can run here; false after it has skipped the test, with the reason. */
  require(t: TestContext): Promise<boolean>;
}

/** All drivers that the tests of docs/SEMANTICS.md run with: a driver takes part by its entry. */
export const testedDrivers: readonly TestedDriver[] = [
  {
    driver: fuseDriver,
    inKernel: false,
    keepsAll: true,
    afterEnd: ["ENOTCONN"],
    without: [],
    require: async (t) => requireRootAndFuse(t),
  },
  {
    driver: erofsDriver,
    inKernel: true,
    keepsAll: true,
    // Of content EIO, of the index what the session below was told.
    afterEnd: ["EIO", "ENOTCONN", "ECONNABORTED"],
    without: [],
    require: requireErofs,
  },
  {
    driver: fuseNativeDriver,
    inKernel: false,
    keepsAll: false,
    afterEnd: ["EIO"],
    without: ["S4", "S6", "S15", "S19", "S25", "S62", "S63", "S74", "S75"],
    require: requireFuseNative,
  },
];

/**
 * For a test of the driver erofs. False, with the reason, on a system whose EROFS the driver refuses; with CI=true that is a failure
 * unless the reason is that kernel's EROFS itself.
 */
export async function requireErofs(t: TestContext): Promise<boolean> {
  if (!requireRootAndFuse(t)) return false;
  const why = (await erofsDriver.unavailable({} as never)) ?? (await whyErofsIsUnsafe());
  if (why === undefined) return true;
  assert.match(why, /gives zeros|reading a file of its EROFS failed/, `driver erofs cannot be tested here: ${why}`);
  t.skip(`driver erofs refuses this kernel: ${why}`);
  return false;
}

/** For a test of the driver fuse-native: the package comes with this checkout, libfuse 2 with the packages for tests. */
export async function requireFuseNative(t: TestContext): Promise<boolean> {
  if (!requireRootAndFuse(t)) return false;
  const plain = { mountpoint: "/", flags: noMountFlags, securityOptions: [] } as Partial<MountRequest> as MountRequest;
  const why = await fuseNativeDriver.unavailable(plain);
  if (why === undefined) return true;
  skipOrFail(t, why);
  return false;
}

/** One driver in one test of docs/SEMANTICS.md. */
export class DriverLines {
  readonly name: DriverName;
  readonly inKernel: boolean;
  readonly keepsAll: boolean;
  readonly afterEnd: TestedDriver["afterEnd"];
  readonly #t: TestContext;
  readonly #tested: TestedDriver;

  constructor(t: TestContext, tested: TestedDriver) {
    this.name = tested.driver.name;
    this.inKernel = tested.inKernel;
    this.keepsAll = tested.keepsAll;
    this.afterEnd = tested.afterEnd;
    this.#t = t;
    this.#tested = tested;
  }

  /** A subtest of the line that its name begins with, if the driver promises that line. */
  async test(name: string, run: () => Promise<void>): Promise<void> {
    if (!this.#tested.without.includes(name.slice(0, name.indexOf(":")))) await this.#t.test(name, run);
  }

  /** The tree of semantics-tree.ts, or another tar, mounted with this driver. */
  mount(options: Omit<MountTreeOptions, "driver"> & { readonly tar?: Uint8Array } = {}): Promise<MountedTree> {
    const { tar = semanticsTar(), ...rest } = options;
    return MountedTree.mount(tar, { spanBytes, ...rest, driver: this.#tested.driver });
  }

  /** The same with a process that makes system calls on it. That ends first: what waits in it would end with the mount only. */
  async start(options: Parameters<DriverLines["mount"]>[0] = {}): Promise<StartedTree> {
    const tree = await this.mount(options);
    const sys = await Syscalls.start(tree.mountpoint);
    return {
      tree,
      sys,
      async [Symbol.asyncDispose]() {
        await sys[Symbol.asyncDispose]();
        await tree[Symbol.asyncDispose]();
      },
    };
  }
}

export interface StartedTree extends AsyncDisposable {
  readonly tree: MountedTree;
  readonly sys: Syscalls;
}

/** A test for each driver, named after it. */
export function testDrivers(name: string, run: (lines: DriverLines) => Promise<void>): void {
  for (const tested of testedDrivers) {
    test(`${name}, driver ${tested.driver.name}`, async (t) => {
      if (await tested.require(t)) await run(new DriverLines(t, tested));
    });
  }
}
