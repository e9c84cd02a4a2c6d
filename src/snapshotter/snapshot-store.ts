import { open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import { readBounded } from "../base/read-bounded.js";
import { writeFileAtomically } from "../cache/atomic-file.js";
import { SnapshotExistsError } from "./snapshot-error.js";
import { formatRecord, parseRecord, type SnapshotRecord } from "./snapshot-record.js";

const RECORD_NAME = /^([1-9]\d{0,14})\.json$/;

/**
 * All snapshots, in memory and as one file each. A change is in its file, whole and flushed, before it is seen by anybody.
 * Changes come one after the other.
 */
export class SnapshotStore {
  readonly #directory: string;
  readonly #byName = new Map<string, SnapshotRecord>();
  /** How many snapshots name this one as their parent. */
  readonly #children = new Map<string, number>();
  #lastId = 0;
  #changes: Promise<unknown> = Promise.resolve();

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** A damaged record is an error in the log, and its snapshot counts as absent; its file stays for who wants to look. */
  static async open(directory: string, log: Log): Promise<SnapshotStore> {
    await ensureDirectory(directory, 0o700);
    const store = new SnapshotStore(directory);
    for (const file of await readdir(directory)) {
      const path = join(directory, file);
      // A process that was killed while it wrote leaves its temporary file.
      if (file.endsWith(".tmp")) await rm(path, { force: true });
      const id = RECORD_NAME.exec(file)?.[1];
      if (id === undefined) continue;
      store.#lastId = Math.max(store.#lastId, Number(id));
      try {
        const what = `snapshot record ${path}`;
        const record = parseRecord(await readBounded(path, limits.snapshotRecordBytes, what), what);
        if (record.id !== id) throw new OcifsError("mismatch", `${what}: it is of snapshot ${record.id}`);
        const other = store.#byName.get(record.name);
        if (other !== undefined) throw new OcifsError("corrupt", `${what}: ${other.id}.json has the same name`);
        store.#put(record);
      } catch (error) {
        log.error("a snapshot cannot be used", { reason: messageOf(error) });
      }
    }
    return store;
  }

  get(name: string): SnapshotRecord | undefined {
    return this.#byName.get(name);
  }

  /** Throws `not-found`. */
  find(name: string): SnapshotRecord {
    const record = this.#byName.get(name);
    if (record === undefined) throw new OcifsError("not-found", `snapshot ${name}: there is none`);
    return record;
  }

  all(): SnapshotRecord[] {
    return [...this.#byName.values()];
  }

  /** A number that no snapshot has, nor had while this store is open. */
  newId(): string {
    this.#lastId++;
    return String(this.#lastId);
  }

  /** Throws SnapshotExistsError, `not-found` or `usage` for the parent, `limit`. */
  create(record: SnapshotRecord): Promise<void> {
    return this.#change(async () => {
      this.#checkFree(record.name);
      if (this.#byName.size >= limits.snapshots) {
        throw new OcifsError("limit", `snapshot ${record.name}: there are ${limits.snapshots} already`);
      }
      this.checkParent(record.parent);
      await this.#write(record);
      this.#put(record);
    });
  }

  /** A parent must be committed, so that it does not change any more. */
  checkParent(parent: string): void {
    if (parent === "") return;
    const { kind } = this.find(parent);
    if (kind !== "committed") throw new OcifsError("usage", `snapshot ${parent}: it is ${kind}, a parent is committed`);
  }

  /** Replaces the snapshot `name`, which may get another name. `make` is given what is there when its turn comes. */
  replace(name: string, make: (record: SnapshotRecord) => SnapshotRecord): Promise<SnapshotRecord> {
    return this.#change(async () => {
      const old = this.find(name);
      const record = make(old);
      if (record.name !== name) this.#checkFree(record.name);
      await this.#write(record);
      this.#drop(old);
      this.#put(record);
      return record;
    });
  }

  /** Throws `not-found`, and `busy` while it is a parent. */
  remove(name: string): Promise<SnapshotRecord> {
    return this.#change(async () => {
      const record = this.find(name);
      const children = this.#children.get(name) ?? 0;
      if (children > 0) throw new OcifsError("busy", `snapshot ${name}: ${children} others lie on it`);
      await rm(this.#pathOf(record.id), { force: true });
      await this.#flush();
      this.#drop(record);
      return record;
    });
  }

  #change<T>(action: () => Promise<T>): Promise<T> {
    const done = this.#changes.then(action);
    this.#changes = done.catch(() => undefined);
    return done;
  }

  #checkFree(name: string): void {
    if (this.#byName.has(name)) throw new SnapshotExistsError(name);
  }

  #put(record: SnapshotRecord): void {
    this.#byName.set(record.name, record);
    if (record.parent !== "") this.#children.set(record.parent, (this.#children.get(record.parent) ?? 0) + 1);
  }

  #drop(record: SnapshotRecord): void {
    this.#byName.delete(record.name);
    const left = (this.#children.get(record.parent) ?? 0) - 1;
    if (left > 0) this.#children.set(record.parent, left);
    else this.#children.delete(record.parent);
  }

  async #write(record: SnapshotRecord): Promise<void> {
    const text = formatRecord(record);
    if (Buffer.byteLength(text) > limits.snapshotRecordBytes) {
      throw new OcifsError(
        "limit",
        `snapshot ${record.name}: over ${limits.snapshotRecordBytes} bytes with its labels`,
      );
    }
    await writeFileAtomically(this.#pathOf(record.id), text);
    await this.#flush();
  }

  /** So that the name in the directory outlives a power cut too: containerd keeps what it was told. */
  async #flush(): Promise<void> {
    await using directory = await open(this.#directory, "r");
    await directory.sync();
  }

  #pathOf(id: string): string {
    return join(this.#directory, `${id}.json`);
  }
}
