import type { BuildProgress } from "../image/build-indexes.js";
import { Progress, type TextSink } from "./output.js";
import { formatDuration, formatSize } from "./units.js";

/** A build shorter than this says nothing off a terminal. */
const quietMs = 1000;

/** Off a terminal a line is written each time this share of the whole is passed: a log wants few of them. */
const lineShare = 0.25;

export interface BuildDisplayOptions {
  /** Default: standard error. */
  readonly sink?: TextSink;
  /** Milliseconds that only grow. Default: performance.now. */
  readonly now?: () => number;
}

/** Shows how far the building of missing indexes is: a bar on a terminal, elsewhere a few lines if it takes a while. */
export class BuildDisplay implements Disposable {
  readonly #program: string;
  readonly #sink: TextSink;
  readonly #now: () => number;
  #startedMs: number | undefined;
  #bar: Progress | undefined;
  #totalBytes = 0;
  #started = false;
  #nextShare = lineShare;

  constructor(program: string, options: BuildDisplayOptions = {}) {
    this.#program = program;
    this.#sink = options.sink ?? process.stderr;
    this.#now = options.now ?? (() => performance.now());
  }

  update({ layers, doneBytes, totalBytes }: BuildProgress): void {
    this.#startedMs ??= this.#now();
    this.#totalBytes = totalBytes;
    if (this.#sink === process.stderr && process.stderr.isTTY) {
      this.#bar ??= new Progress(`index of ${countOf(layers)}`, { totalBytes });
      this.#bar.update(doneBytes);
      return;
    }
    if (this.#now() - this.#startedMs < quietMs) return;
    const share = totalBytes === 0 ? 1 : doneBytes / totalBytes;
    if (!this.#started) {
      this.#started = true;
      this.#say(`the index of ${countOf(layers)}, ${formatSize(totalBytes)}, is not there yet; building it`);
    } else if (share < this.#nextShare) {
      return;
    } else {
      this.#say(`${Math.floor(share * 100)}% of ${formatSize(totalBytes)}`);
    }
    while (this.#nextShare <= share) this.#nextShare += lineShare;
  }

  /** The indexes are there. Idempotent, and nothing where nothing was built. */
  finish(): void {
    // The last of what the daemon told may have come before the last byte.
    this.#bar?.update(this.#totalBytes);
    this.#end("the index is built");
  }

  /** Ends what `finish` did not. */
  [Symbol.dispose](): void {
    this.#end("stopped");
  }

  #end(note: string): void {
    this.#bar?.finish();
    if (this.#started && this.#startedMs !== undefined) {
      this.#say(`${note} after ${formatDuration(this.#now() - this.#startedMs)}`);
    }
    this.#bar = undefined;
    this.#started = false;
    this.#startedMs = undefined;
  }

  #say(text: string): void {
    this.#sink.write(`${this.#program}: ${text}\n`);
  }
}

function countOf(layers: number): string {
  return layers === 1 ? "one layer" : `${layers} layers`;
}
