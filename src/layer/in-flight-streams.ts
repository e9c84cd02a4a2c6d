import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Digest } from "../oci/digest.js";
import type { InFlightStream } from "./in-flight-stream.js";

/** What tells downloads apart. */
export interface StreamKey {
  /**
   * Where the blob is read from, and with whose rights: registry and repository. Who may read a blob of one repository may
   * not be allowed to read another's, even when the digest is the same.
   */
  readonly scope: string;
  readonly digest: Digest;
}

/** A stream and whatever was opened for it. Closing it closes all of that. */
export interface OpenedStream extends AsyncDisposable {
  readonly stream: InFlightStream;
}

/** One user's hold on a stream. The stream is closed when the last user has left and it is not to be finished. */
export interface StreamUse extends AsyncDisposable {
  readonly stream: InFlightStream;
  /** Lets the download go on to its end, well or badly, also when no user is left. */
  finishWithoutUsers(): void;
}

interface Entry {
  readonly opened: Promise<OpenedStream>;
  users: number;
  finishing: Promise<void> | undefined;
}

/** The downloads of this process: one for each source and digest, shared by all who want it. */
export class InFlightStreams implements AsyncDisposable {
  readonly #entries = new Map<string, Entry>();
  readonly #ending = new Set<Promise<void>>();
  readonly #closeFailures: { error: unknown }[] = [];
  #closed = false;

  /** Downloads that are open. */
  get size(): number {
    return this.#entries.size;
  }

  /**
   * Joins the download, or opens it with `open`, which is called once however many ask. A failed open is not kept. Fails with
   * `limit` when too many are open and with `aborted` once closed.
   */
  async use(key: StreamKey, open: () => Promise<OpenedStream>): Promise<StreamUse> {
    if (this.#closed) throw new OcifsError("aborted", `stream of ${key.digest}: streams are being closed`);
    const name = `${key.digest} ${key.scope}`;
    let entry = this.#entries.get(name);
    if (!entry) {
      if (this.#entries.size >= limits.inFlightStreams) {
        throw new OcifsError(
          "limit",
          `stream of ${key.digest}: ${limits.inFlightStreams} downloads are open; wait for one`,
        );
      }
      entry = { opened: open(), users: 0, finishing: undefined };
      this.#entries.set(name, entry);
    }
    const joined = entry;
    joined.users += 1;
    try {
      const { stream } = await joined.opened;
      return this.#useOf(name, joined, stream);
    } catch (error) {
      joined.users -= 1;
      if (this.#entries.get(name) === joined) this.#entries.delete(name);
      throw error;
    }
  }

  /** Closes all downloads; their users' reads fail with `aborted`. Throws the first failure of a close nobody waited for. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    for (const [name, entry] of [...this.#entries]) void this.#end(name, entry);
    await Promise.all(this.#ending);
    const [failure] = this.#closeFailures.splice(0);
    if (failure) throw failure.error;
  }

  #useOf(name: string, entry: Entry, stream: InFlightStream): StreamUse {
    let left = false;
    return {
      stream,
      finishWithoutUsers: () => {
        if (entry.finishing || left) return;
        const settled = () => {
          entry.finishing = undefined;
          void this.#endIfUnused(name, entry);
        };
        // A failure is told to those who wait for the stream; here it only means that nothing is left to do.
        entry.finishing = stream.finish().then(settled, settled);
      },
      [Symbol.asyncDispose]: async () => {
        if (left) return;
        left = true;
        entry.users -= 1;
        await this.#endIfUnused(name, entry);
      },
    };
  }

  async #endIfUnused(name: string, entry: Entry): Promise<void> {
    if (entry.users === 0 && !entry.finishing) await this.#end(name, entry);
  }

  /** Never rejects: see `#closeFailures`. */
  async #end(name: string, entry: Entry): Promise<void> {
    if (this.#entries.get(name) !== entry) return;
    // Whoever comes from now on opens it anew; locks keep the two from fetching the same bytes.
    this.#entries.delete(name);
    const ending = this.#close(entry);
    this.#ending.add(ending);
    await ending;
    this.#ending.delete(ending);
  }

  async #close(entry: Entry): Promise<void> {
    const [opened] = await Promise.allSettled([entry.opened]);
    // Whoever asked for it was told that it could not be opened.
    if (opened.status === "rejected") return;
    try {
      await opened.value[Symbol.asyncDispose]();
    } catch (error) {
      this.#closeFailures.push({ error });
    }
  }
}
