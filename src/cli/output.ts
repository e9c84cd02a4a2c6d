import { createRequire } from "node:module";
import type { SingleBar } from "cli-progress";
import { formatDuration, formatSize } from "./units.js";

const require = createRequire(import.meta.url);

/** What the output functions need of a stream; process.stdout and process.stderr have it. */
export interface TextSink {
  write(text: string): unknown;
  readonly isTTY?: boolean;
}

/** A step shorter than this says nothing unless it is drawn on a terminal; also the least time between two lines. */
const quietMs = 1000;

export interface ProgressOptions {
  /** Known size of the work; without it the figure is a plain count. */
  readonly totalBytes?: number;
  /** Default: standard error, so that standard output stays clean for results. */
  readonly sink?: TextSink;
  /** Milliseconds that only grow. Default: performance.now. */
  readonly now?: () => number;
}

/**
 * Shows how far one step is: a bar on a terminal, elsewhere a line a second at most, and nothing at all for a step that
 * takes under a second. Close it with `using` or `finish()`; an open bar's timer keeps the process alive.
 */
export class Progress implements Disposable {
  readonly #label: string;
  readonly #sink: TextSink;
  readonly #now: () => number;
  readonly #startedMs: number;
  readonly #bar: SingleBar | undefined;
  #totalBytes: number | undefined;
  #doneBytes = 0;
  #lastLineMs: number;
  #lines = 0;
  #finished = false;

  constructor(label: string, options: ProgressOptions = {}) {
    this.#label = label;
    this.#sink = options.sink ?? process.stderr;
    this.#now = options.now ?? (() => performance.now());
    this.#totalBytes = options.totalBytes;
    this.#startedMs = this.#now();
    this.#lastLineMs = this.#startedMs;
    // Only a real terminal can be drawn on; cli-progress writes cursor movements to it.
    if (this.#sink === process.stderr && process.stderr.isTTY) this.#bar = this.#startBar(process.stderr);
  }

  #startBar(stream: NodeJS.WritableStream): SingleBar {
    // Loaded when there is something to draw: it takes longer than the rest of a mount helper's modules.
    const { SingleBar } = require("cli-progress") as typeof import("cli-progress");
    const bar = new SingleBar({
      stream,
      format: "{label} {bar} {percentage}% {done} of {size} {speed}/s",
      fps: 8,
      // cli-progress would install a SIGINT handler, which takes the signal from a process that has none of its own; with the
      // cursor left visible there is nothing to restore.
      hideCursor: false,
      gracefulExit: false,
    });
    bar.start(this.#totalBytes ?? 0, 0, this.#payload());
    return bar;
  }

  #payload(): Record<string, string> {
    const seconds = Math.max((this.#now() - this.#startedMs) / 1000, 0.001);
    return {
      label: this.#label,
      done: formatSize(this.#doneBytes),
      // Not "total": that name is cli-progress' own, for the number.
      size: this.#totalBytes === undefined ? "?" : formatSize(this.#totalBytes),
      speed: formatSize(Math.round(this.#doneBytes / seconds)),
    };
  }

  /** Tells how many bytes are done so far, and their number in all once it is known. */
  update(doneBytes: number, totalBytes?: number): void {
    if (this.#finished) return;
    this.#doneBytes = doneBytes;
    if (totalBytes !== undefined && totalBytes !== this.#totalBytes) {
      this.#totalBytes = totalBytes;
      this.#bar?.setTotal(totalBytes);
    }
    this.#bar?.update(doneBytes, this.#payload());
    if (this.#bar === undefined && this.#now() - this.#lastLineMs >= quietMs) this.#writeLine("");
  }

  /** Ends the step. Idempotent. `note` is added to the last line. */
  finish(note?: string): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#bar?.stop();
    const elapsedMs = this.#now() - this.#startedMs;
    if (this.#bar !== undefined || (this.#lines === 0 && elapsedMs < quietMs)) return;
    this.#writeLine(`, ${note ?? "done"} in ${formatDuration(elapsedMs)}`);
  }

  [Symbol.dispose](): void {
    this.finish("stopped");
  }

  #writeLine(suffix: string): void {
    const { done, size } = this.#payload();
    const share =
      this.#totalBytes === undefined
        ? done
        : `${done} of ${size} (${Math.floor((100 * this.#doneBytes) / Math.max(this.#totalBytes, 1))}%)`;
    this.#sink.write(`${this.#label}: ${share}${suffix}\n`);
    this.#lines += 1;
    this.#lastLineMs = this.#now();
  }
}

export interface Column {
  readonly title: string;
  /** Numbers read best at the right. Default: left. */
  readonly align?: "left" | "right";
}

/** Writes rows under their titles, columns two spaces apart, no trailing blanks. Every row has one cell a column. */
export function printTable(sink: TextSink, columns: readonly Column[], rows: readonly (readonly string[])[]): void {
  const lines = [columns.map((column) => column.title), ...rows];
  const widths = columns.map((_, at) => Math.max(...lines.map((line) => [...(line[at] ?? "")].length)));
  for (const line of lines) {
    const cells = columns.map((column, at) => {
      const cell = line[at] ?? "";
      const padding = " ".repeat((widths[at] ?? 0) - [...cell].length);
      return column.align === "right" ? padding + cell : cell + padding;
    });
    sink.write(`${cells.join("  ").trimEnd()}\n`);
  }
}

/** Writes one JSON document and a line feed. A bigint becomes a decimal string, since JSON readers round large numbers. */
export function printJson(sink: TextSink, value: unknown): void {
  const text = JSON.stringify(value, (_, item) => (typeof item === "bigint" ? item.toString() : item), 2);
  sink.write(`${text}\n`);
}

const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * A file name for a terminal: UTF-8 as it is, but control characters, backslashes and bytes that are not UTF-8 as `\ooo`,
 * so that a name can neither move the cursor nor pass for another one.
 */
export function printableName(name: Uint8Array): string {
  let text: string;
  try {
    text = decoder.decode(name);
  } catch {
    return [...name]
      .map((byte) => (byte >= 0x20 && byte < 0x7f && byte !== 0x5c ? String.fromCharCode(byte) : octal(byte)))
      .join("");
  }
  // C0, DEL, C1, backslash, and the characters that reorder or hide what follows them.
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\\]/gu, (character) =>
    [...new TextEncoder().encode(character)].map(octal).join(""),
  );
}

function octal(byte: number): string {
  return `\\${byte.toString(8).padStart(3, "0")}`;
}
