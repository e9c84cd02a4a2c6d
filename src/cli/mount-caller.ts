import { readFile } from "node:fs/promises";
import type { MountCaller } from "./mount-grammar.js";

/** Letters and long names of mount(8) that take a value (util-linux 2.38). */
const lettersWithValue = new Set([..."toOTLUN"]);
const longNamesWithValue = new Set(
  "types options test-opts fstab label uuid namespace source target target-prefix options-mode options-source"
    .split(" ")
    .map((name) => `--${name}`),
);
const longNamesForWritable = new Set(["--rw", "--read-write"]);

/**
 * Says who started this process: mount(8), or a person or program directly. The parent's name decides, which /proc shows to
 * everybody; /proc/PID/exe it hides when mount(8) runs setuid for an ordinary user. When the caller of mount(8) wrote `rw`
 * or `-w` himself he counts as the user, so that he is told; `rw` from fstab cannot be told from mount(8)'s default.
 */
export async function detectCaller(parentPid: number = process.ppid): Promise<MountCaller> {
  let name: string;
  let commandLine: string;
  try {
    name = await readFile(`/proc/${parentPid}/comm`, "utf8");
    commandLine = await readFile(`/proc/${parentPid}/cmdline`, "utf8");
  } catch {
    // No /proc, or the parent is gone: then nobody but the command line itself can be believed.
    return "user";
  }
  if (name.trim() !== "mount") return "user";
  return asksForWritable(commandLine.split("\0").slice(1)) ? "user" : "mount8";
}

/** True when the arguments of mount(8), without its own name, end up asking for a writable mount in so many words. */
export function asksForWritable(args: readonly string[]): boolean {
  let writable = false;
  const readList = (list: string): void => {
    for (const word of list.split(",")) {
      if (word === "rw") writable = true;
      if (word === "ro") writable = false;
    }
  };
  for (let index = 0; index < args.length; index += 1) {
    const arg = args[index] ?? "";
    if (arg === "--") break;
    const [longName, ...longValue] = arg.split("=");
    if (arg.startsWith("--")) {
      if (longNamesForWritable.has(arg)) writable = true;
      if (arg === "--read-only") writable = false;
      if (longValue.length === 0 && longNamesWithValue.has(arg)) index += 1;
      if (longName === "--options") readList(longValue.length > 0 ? longValue.join("=") : (args[index] ?? ""));
      continue;
    }
    if (!arg.startsWith("-")) continue;
    for (let at = 1; at < arg.length; at += 1) {
      const letter = arg.charAt(at);
      if (letter === "w") writable = true;
      if (letter === "r") writable = false;
      // -m may carry a mode, in the same argument only.
      if (letter === "m") break;
      if (!lettersWithValue.has(letter)) continue;
      const rest = arg.slice(at + 1);
      if (rest === "") index += 1;
      if (letter === "o") readList(rest === "" ? (args[index] ?? "") : rest);
      break;
    }
  }
  return writable;
}
