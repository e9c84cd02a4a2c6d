/**
 * Tasks that run while their starter goes on, at most `limit` at a time. The first failure is thrown by the next `start` or
 * `drain`, and nothing is started after it. Whoever has a group waits for `settled` before it gives up what the tasks use.
 */
export class TaskGroup {
  readonly #limit: number;
  readonly #running = new Set<Promise<void>>();
  #failure: { readonly error: unknown } | undefined;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Returns when the task has begun, which waits for a place. */
  async start(task: () => Promise<void>): Promise<void> {
    while (this.#running.size >= this.#limit && !this.#failure) await Promise.race(this.#running);
    this.#throwFailure();
    const running = task()
      .catch((error: unknown) => {
        this.#failure ??= { error };
      })
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** Returns when all have ended well. */
  async drain(): Promise<void> {
    await this.settled();
    this.#throwFailure();
  }

  /** Returns when all have ended, whichever way. */
  async settled(): Promise<void> {
    await Promise.all(this.#running);
  }

  #throwFailure(): void {
    if (this.#failure) throw this.#failure.error;
  }
}
