import type { KeptMount } from "./driver.js";
import type { MountPlace } from "./mountpoint.js";

/** A mount's place as facts for the next process, and back: what is not known is left out. */
export function factsOfPlace({ device, namespace }: MountPlace): KeptMount["facts"] {
  return { ...(device === undefined ? {} : { device }), ...(namespace === undefined ? {} : { namespace }) };
}

export function placeOfFacts(mountpoint: string, { device, namespace }: KeptMount["facts"]): MountPlace {
  const text = (value: unknown) => (typeof value === "string" ? value : undefined);
  return { mountpoint, device: text(device), namespace: text(namespace) };
}

/** The place of a mount whose device was known from the start. Without it, it would be whatever is mounted there. */
export type KnownPlace = MountPlace & { readonly device: string };

export function knownPlaceOfFacts(mountpoint: string, facts: KeptMount["facts"]): KnownPlace {
  return { ...placeOfFacts(mountpoint, facts), device: String(facts.device) };
}
