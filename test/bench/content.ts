/** Numbers from a seed (xorshift32), the same on every machine. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  /** A whole number in [0, limit), limit ≤ 2^32. */
  below(limit: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }
}

const poolBytes = 16 << 20;
/** More than deflate's window of 32 KiB, so that a piece used twice does not shrink. */
const pieceBytes = 64 << 10;
const vocabularySize = 6000;

/**
 * Bytes that gzip shrinks about as it does programs and texts (to two fifths): words by Zipf's law, tables of numbers, and some bytes
 * that do not shrink at all.
 */
export class Content {
  readonly #pool: Buffer;

  constructor() {
    const random = new Random(20240229);
    const words = Array.from({ length: vocabularySize }, () =>
      Array.from({ length: 3 + random.below(8) }, () => String.fromCharCode(97 + random.below(26))).join(""),
    );
    this.#pool = Buffer.alloc(poolBytes);
    for (let at = 0, kind = 0; at < poolBytes; kind++) {
      const end = Math.min(poolBytes, at + 2048 + random.below(6144));
      if (kind % 8 === 7) {
        for (; at < end; at++) this.#pool[at] = random.below(256);
      } else if (kind % 4 === 1) {
        for (; at + 8 <= end; at += 8) {
          this.#pool.writeUInt32LE(0x400000 + random.below(1 << 16), at);
          this.#pool.writeUInt32LE(random.below(64), at + 4);
        }
        at = end;
      } else {
        while (at < end) {
          const word = words[Math.floor(vocabularySize ** (random.below(1 << 20) / (1 << 20))) - 1] ?? "";
          at += this.#pool.write(`${word}${random.below(12) === 0 ? "\n" : " "}`, at, "latin1");
        }
      }
    }
  }

  /** `sizeBytes` bytes, in pieces; the same for the same seed. */
  *bytes(seed: number, sizeBytes: number): Generator<Buffer> {
    const random = new Random(seed + 1);
    for (let left = sizeBytes; left > 0; left -= pieceBytes) {
      const at = random.below(poolBytes - pieceBytes);
      yield this.#pool.subarray(at, at + Math.min(left, pieceBytes));
    }
  }
}
