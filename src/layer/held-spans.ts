/** Spans that somebody is about to read: they are not given up for want of room. */
export class HeldSpans {
  readonly #holds = new Set<{ readonly first: number; readonly last: number }>();

  /** Holds [first, last] until disposal. */
  hold(first: number, last: number): Disposable {
    const held = { first, last };
    this.#holds.add(held);
    return { [Symbol.dispose]: () => void this.#holds.delete(held) };
  }

  has(span: number): boolean {
    return [...this.#holds].some(({ first, last }) => first <= span && span <= last);
  }
}
