import type { Stage } from "../stage.js";
import type { Outcome } from "../verdict.js";
import { churn } from "./churn.js";
import { daemonKill } from "./daemon-kill.js";
import { diskFull } from "./disk-full.js";
import { expiry } from "./expiry.js";
import { manyImages } from "./many-images.js";
import { manyMounts } from "./many-mounts.js";
import { registryFaults } from "./registry-faults.js";
import { twoDaemons } from "./two-daemons.js";

export interface Torture {
  readonly run: (stage: Stage) => Promise<Outcome>;
  /** How long it runs in its full and in its short form. */
  readonly seconds: number;
  readonly shortSeconds: number;
}

export const tortures = {
  "daemon-kill": { run: daemonKill, seconds: 120, shortSeconds: 3 },
  "registry-faults": { run: registryFaults, seconds: 120, shortSeconds: 4 },
  expiry: { run: expiry, seconds: 60, shortSeconds: 4 },
  "disk-full": { run: diskFull, seconds: 60, shortSeconds: 3 },
  "two-daemons": { run: twoDaemons, seconds: 30, shortSeconds: 2 },
  "many-mounts": { run: manyMounts, seconds: 0, shortSeconds: 0 },
  "many-images": { run: manyImages, seconds: 0, shortSeconds: 0 },
  churn: { run: churn, seconds: 600, shortSeconds: 4 },
} as const satisfies Readonly<Record<string, Torture>>;

export type TortureName = keyof typeof tortures;
