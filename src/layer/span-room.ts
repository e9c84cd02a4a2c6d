import type { CacheRoom, Reservation } from "../cache/room.js";
import type { SpanTable } from "./span-table.js";

export interface SpanRoom {
  readonly table: SpanTable;
  readonly room: CacheRoom;
  /** The cache's limit left no room for a span, which is kept in memory for a while. */
  onNoRoom(): void;
}

/** Room for one span in `data`, or undefined when it goes to memory. */
export async function reserveSpan({ table, room, onNoRoom }: SpanRoom, span: number): Promise<Reservation | undefined> {
  const sizeBytes = (table.outStarts[span + 1] ?? 0) - (table.outStarts[span] ?? 0);
  const reservation = await room.reserve(sizeBytes);
  if (!reservation) onNoRoom();
  return reservation;
}
