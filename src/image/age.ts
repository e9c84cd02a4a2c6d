const units = [
  ["day", 86_400_000],
  ["hour", 3_600_000],
  ["minute", 60_000],
  ["second", 1000],
] as const;

/** A span of time for people, in the largest unit that it fills: "3 days", "1 hour". A clock that was set back counts as none. */
export function formatAge(ageMs: number): string {
  for (const [name, unitMs] of units) {
    const count = Math.floor(ageMs / unitMs);
    if (count >= 1) return `${count} ${name}${count === 1 ? "" : "s"}`;
  }
  return "less than a second";
}
