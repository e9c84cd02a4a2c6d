/** Closes what was opened, last first, also when opening fails half-way. The first failure of closing is thrown, at the end. */
export class Cleanup implements AsyncDisposable {
  readonly #resources: AsyncDisposable[] = [];
  #closing: Promise<void> | undefined;

  /** Keeps a resource until close and returns it. */
  add<T extends AsyncDisposable>(resource: T): T {
    this.#resources.push(resource);
    return resource;
  }

  /** Keeps something to be done at close. */
  defer(action: () => void | Promise<void>): void {
    this.#resources.push({ [Symbol.asyncDispose]: async () => action() });
  }

  /** Hands everything over to a new owner: what was opened half-way has become whole. */
  release(): Cleanup {
    const owner = new Cleanup();
    owner.#resources.push(...this.#resources.splice(0));
    return owner;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const failures: unknown[] = [];
    for (let resource = this.#resources.pop(); resource; resource = this.#resources.pop()) {
      try {
        await resource[Symbol.asyncDispose]();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
  }
}
