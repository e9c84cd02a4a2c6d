import type { Bench } from "../bench.js";
import type { Figure } from "../figures.js";
import { backgroundFill } from "./background-fill.js";
import { coldFile, coldRandom } from "./cold-reads.js";
import { containerdStart } from "./containerd.js";
import { daemonMemory } from "./daemon-memory.js";
import { firstMount } from "./first-mount.js";
import { importLayer } from "./import.js";
import { indexCreation } from "./index-creation.js";
import { findAll, listAll } from "./metadata.js";
import { mountTime } from "./mount-time.js";
import { programStart, shellStart } from "./program-start.js";
import { proxyCrowd } from "./proxy.js";
import { readEverything } from "./read-everything.js";
import { readsDuringFill } from "./reads-during-fill.js";
import { remountTime } from "./remount-time.js";
import { spanDecode } from "./span-decode.js";
import { warmRandom } from "./warm-random.js";
import { warmSequential } from "./warm-sequential.js";

/**
 * Every workload by its name for --only, in the order in which they run. One that throws `Skipped` could not run here; any
 * other error is a failure of ocifs.
 */
export const workloads = {
  mount: mountTime,
  "first-mount": firstMount,
  remount: remountTime,
  find: findAll,
  ls: listAll,
  "cold-file": coldFile,
  "cold-random": coldRandom,
  sequential: warmSequential,
  random: warmRandom,
  program: programStart,
  shell: shellStart,
  everything: readEverything,
  fill: backgroundFill,
  "fill-reads": readsDuringFill,
  decode: spanDecode,
  index: indexCreation,
  containerd: containerdStart,
  import: importLayer,
  memory: daemonMemory,
  proxy: proxyCrowd,
} as const satisfies Readonly<Record<string, (bench: Bench) => Promise<Figure[]>>>;

export type WorkloadName = keyof typeof workloads;
