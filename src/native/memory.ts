import { addon, awaitNative } from "./addon.js";

const native = addon as unknown as { trimMemory(): Promise<void> };

/** Gives memory back to the system that was freed and that the allocator keeps. */
export function trimMemory(): Promise<void> {
  return awaitNative(() => native.trimMemory());
}
