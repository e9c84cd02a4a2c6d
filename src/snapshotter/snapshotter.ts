import { access, chmod, lchown, mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { mapConcurrently } from "../base/concurrency.js";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import { findBlob } from "../cache/cached-blobs.js";
import { diskUsage } from "./disk-usage.js";
import type { ImageMounts, MountedImage } from "./image-mounts.js";
import { type LazyImages, snapshotLabels } from "./lazy-images.js";
import { MountUnavailableError, SnapshotExistsError } from "./snapshot-error.js";
import type { LazyLayer, SnapshotKind, SnapshotRecord, SnapshotUsage } from "./snapshot-record.js";
import type { SnapshotStore } from "./snapshot-store.js";

/** A mount as containerd is told to make it. */
export interface SnapshotMount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

export type Labels = Readonly<Record<string, string>>;

export interface SnapshotterOptions {
  /** Holds `snapshots` and `removed`; on a file system that overlayfs can write to. */
  readonly root: string;
  readonly cachePath: string;
  readonly store: SnapshotStore;
  readonly mounts: ImageMounts;
  readonly images: LazyImages;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** How long an image that could not be mounted is pulled like any other before it is tried again. */
const REFUSAL_MS = 60_000;

/**
 * What containerd's snapshot service does, without its wire format. Layers of an image that ocifs can mount are committed when
 * containerd asks where to unpack them, and never downloaded by it; others are directories, as overlayfs wants them.
 */
export class Snapshotter {
  readonly #options: SnapshotterOptions;
  /** Images that are mounted for a snapshot which is not recorded yet, by directory: not to be taken away. */
  readonly #wanted = new Map<string, number>();
  /** When an image was refused, by source; oldest first. */
  readonly #refused = new Map<string, number>();
  #collection: Promise<void> | undefined;
  #collectAgain = false;
  #overlayOptions: Promise<readonly string[]> | undefined;

  constructor(options: SnapshotterOptions) {
    this.#options = options;
  }

  /** Puts aside what a killed process left half made, and mounts again what a reboot took; waits for none of these mounts. */
  async restore(): Promise<void> {
    const { store, signal, log } = this.#options;
    await ensureDirectory(this.#snapshots, 0o700);
    await ensureDirectory(this.#removed, 0o700);
    const known = new Set(store.all().map(({ id }) => id));
    for (const name of await readdir(this.#snapshots)) {
      if (!known.has(name)) await rename(join(this.#snapshots, name), join(this.#removed, `${name}.${Date.now()}`));
    }
    void mapConcurrently(
      [...this.#neededImages().values()],
      limits.snapshotMountsAtOnce,
      (image) => this.#mount(image).catch((error) => log.error("not restored", { reason: messageOf(error) })),
      signal,
    ).catch((error) => log.error("mounts are not restored", { reason: messageOf(error) }));
    this.collect();
  }

  async prepare(key: string, parent: string, labels: Labels): Promise<SnapshotMount[]> {
    const chainId = labels[snapshotLabels.ref];
    if (chainId !== undefined) await this.#commitLazily(chainId, parent, labels);
    return await this.#create("active", key, parent, labels);
  }

  async view(key: string, parent: string, labels: Labels): Promise<SnapshotMount[]> {
    return await this.#create("view", key, parent, labels);
  }

  async mounts(key: string): Promise<SnapshotMount[]> {
    const record = this.#options.store.find(key);
    if (record.kind === "committed") throw new OcifsError("busy", `snapshot ${key}: it is committed, and not mounted`);
    return await this.#mountsOf(record, await this.#lowerOf(record.parent));
  }

  async commit(name: string, key: string, labels: Labels): Promise<void> {
    const { store } = this.#options;
    const { id } = activeOf(store.find(key));
    const usage = await diskUsage(this.#fs(id));
    await store.replace(key, (record) => {
      const updatedMs = Date.now();
      return {
        ...activeOf(record),
        name,
        kind: "committed",
        labels: { ...record.labels, ...labels },
        updatedMs,
        usage,
      };
    });
  }

  /** The name is free when this returns; files and mounts go later. */
  async remove(key: string): Promise<void> {
    const { id } = await this.#options.store.remove(key);
    await this.#putAside(id);
    this.collect();
  }

  stat(key: string): SnapshotRecord {
    return this.#options.store.find(key);
  }

  list(): SnapshotRecord[] {
    return this.#options.store.all();
  }

  /** Sets labels: those that `fields` names (`labels`, `labels.KEY`), or all without fields. Nothing else can be changed. */
  async update(key: string, labels: Labels, fields: readonly string[]): Promise<SnapshotRecord> {
    for (const field of fields) {
      if (field === "labels" || field.startsWith("labels.")) continue;
      throw new OcifsError("usage", `snapshot ${key}: the field "${field.slice(0, 100)}" cannot be changed`);
    }
    return await this.#options.store.replace(key, (record) => {
      const whole = fields.length === 0 || fields.includes("labels");
      const next: Record<string, string> = whole ? { ...labels } : { ...record.labels };
      for (const field of whole ? [] : fields) {
        const name = field.slice("labels.".length);
        const value = Object.hasOwn(labels, name) ? labels[name] : undefined;
        if (value === undefined || value === "") delete next[name];
        else next[name] = value;
      }
      return { ...record, labels: next, updatedMs: Date.now() };
    });
  }

  /** On disk: a snapshot's own files; of a layer that is mounted, what the cache holds of it now. */
  async usage(key: string): Promise<SnapshotUsage> {
    const record = this.#options.store.find(key);
    if (record.lazy !== undefined) {
      const files = (await findBlob(this.#options.cachePath, record.lazy.blob))?.files ?? [];
      return { bytes: files.reduce((sum, file) => sum + file.allocatedBytes, 0), inodes: files.length };
    }
    return record.usage ?? (await diskUsage(this.#fs(record.id)));
  }

  /** Starts what removal left to be done, unless it is under way; then once more after that. */
  collect(): void {
    if (this.#collection !== undefined) {
      this.#collectAgain = true;
      return;
    }
    this.#collection = this.#collect()
      .catch((error) => this.#options.log.warn("not everything was cleaned up", { reason: messageOf(error) }))
      .finally(() => {
        this.#collection = undefined;
        const again = this.#collectAgain && !this.#options.signal.aborted;
        this.#collectAgain = false;
        if (again) this.collect();
      });
  }

  /** Resolves when nothing is left to be cleaned up, or it failed, which the log tells. */
  async collected(): Promise<void> {
    while (this.#collection !== undefined) await this.#collection;
  }

  get #snapshots(): string {
    return join(this.#options.root, "snapshots");
  }

  get #removed(): string {
    return join(this.#options.root, "removed");
  }

  #fs(id: string): string {
    return join(this.#snapshots, id, "fs");
  }

  /**
   * Commits a layer under its chainID and throws SnapshotExistsError, by which containerd learns that it need not unpack it.
   * Returns when it has to.
   */
  async #commitLazily(chainId: string, parent: string, labels: Labels): Promise<void> {
    const { store, log } = this.#options;
    const there = store.get(chainId);
    if (there?.kind === "committed" && there.parent === parent) throw new SnapshotExistsError(chainId);
    if (there !== undefined) return;
    let directory: string | undefined;
    try {
      const lazy = await this.#lazyLayerOf(chainId, labels);
      if (lazy === undefined) return;
      const image = wholeImageOf(lazy);
      directory = this.#want(image);
      await this.#mount(image);
      const now = Date.now();
      const times = { createdMs: now, updatedMs: now };
      await store.create({ id: store.newId(), name: chainId, parent, kind: "committed", labels, ...times, lazy });
    } catch (error) {
      if (error instanceof SnapshotExistsError) throw error;
      const image = labels[snapshotLabels.imageRef] ?? "";
      this.#refuse(labels);
      log.warn("a layer is pulled, not mounted", { image, chainId, reason: messageOf(error) });
      return;
    } finally {
      if (directory !== undefined) this.#unwant(directory);
    }
    throw new SnapshotExistsError(chainId);
  }

  async #lazyLayerOf(chainId: string, labels: Labels): Promise<LazyLayer | undefined> {
    if (Date.now() - (this.#refused.get(refusalKey(labels)) ?? 0) < REFUSAL_MS) return undefined;
    const lazy = await this.#options.images.layerOf(chainId, labels);
    if (lazy === undefined) {
      this.#options.log.info("a layer is pulled: its labels do not name an image", { chainId });
    }
    return lazy;
  }

  #refuse(labels: Labels): void {
    this.#refused.delete(refusalKey(labels));
    this.#refused.set(refusalKey(labels), Date.now());
    const [oldest] = this.#refused.keys();
    if (oldest !== undefined && this.#refused.size > limits.snapshotImages) this.#refused.delete(oldest);
  }

  async #create(kind: SnapshotKind, name: string, parent: string, labels: Labels): Promise<SnapshotMount[]> {
    const { store } = this.#options;
    if (store.get(name) !== undefined) throw new SnapshotExistsError(name);
    store.checkParent(parent);
    const lazy = this.#lowestLazy(parent);
    const directory = lazy === undefined ? undefined : this.#want(imageUpTo(lazy));
    try {
      const lower = await this.#lowerOf(parent);
      const now = Date.now();
      const record = { id: store.newId(), name, parent, kind, labels, createdMs: now, updatedMs: now };
      await this.#makeDirectories(record.id, lower[0]);
      try {
        await store.create(record);
      } catch (error) {
        await this.#putAside(record.id);
        throw error;
      }
      return await this.#mountsOf(record, lower);
    } finally {
      if (directory !== undefined) this.#unwant(directory);
    }
  }

  /** The root of a container is its upper directory: it looks like the image's. */
  async #makeDirectories(id: string, below: string | undefined): Promise<void> {
    await ensureDirectory(join(this.#snapshots, id), 0o700);
    await mkdir(join(this.#snapshots, id, "work"), { mode: 0o711 });
    await mkdir(this.#fs(id), { mode: 0o755 });
    if (below === undefined) return;
    const { uid, gid, mode } = await stat(below);
    await lchown(this.#fs(id), uid, gid);
    await chmod(this.#fs(id), mode & 0o7777);
  }

  /** Directories below a snapshot with this parent, topmost first: of layers that were unpacked, then one mount for all others. */
  async #lowerOf(parent: string): Promise<string[]> {
    const lower: string[] = [];
    for (let name = parent; name !== ""; ) {
      const record = this.#options.store.find(name);
      if (record.lazy !== undefined) return [...lower, await this.#mount(imageUpTo(record.lazy))];
      lower.push(this.#fs(record.id));
      name = record.parent;
    }
    return lower;
  }

  /** The layer whose mount is the lowest directory of a snapshot with this parent. */
  #lowestLazy(parent: string): LazyLayer | undefined {
    for (let name = parent; name !== ""; ) {
      const record = this.#options.store.get(name);
      if (record?.lazy !== undefined) return record.lazy;
      name = record?.parent ?? "";
    }
    return undefined;
  }

  async #mountsOf({ id, kind }: SnapshotRecord, lower: readonly string[]): Promise<SnapshotMount[]> {
    const [top] = lower;
    const writable = kind === "active";
    if (top === undefined || (!writable && lower.length === 1)) {
      return [{ type: "bind", source: top ?? this.#fs(id), options: [writable ? "rw" : "ro", "rbind"] }];
    }
    const upper = writable ? [`workdir=${join(this.#snapshots, id, "work")}`, `upperdir=${this.#fs(id)}`] : [];
    this.#overlayOptions ??= overlayOptions();
    const options = [...(await this.#overlayOptions), ...upper, `lowerdir=${lower.join(":")}`];
    return [{ type: "overlay", source: "overlay", options }];
  }

  async #mount(image: MountedImage): Promise<string> {
    try {
      return await this.#options.mounts.mount(image);
    } catch (cause) {
      throw new MountUnavailableError(`mount of ${image.source}: ${messageOf(cause)}`, cause);
    }
  }

  #want(image: MountedImage): string {
    const directory = this.#options.mounts.directoryOf(image);
    this.#wanted.set(directory, (this.#wanted.get(directory) ?? 0) + 1);
    return directory;
  }

  #unwant(directory: string): void {
    const left = (this.#wanted.get(directory) ?? 0) - 1;
    if (left > 0) this.#wanted.set(directory, left);
    else this.#wanted.delete(directory);
  }

  /** Mounts that snapshots lie on, by directory: each image as a whole, and the part of one that an unpacked snapshot begins on. */
  #neededImages(): Map<string, MountedImage> {
    const { store, mounts } = this.#options;
    const needed = new Map<string, MountedImage>();
    for (const { lazy, parent } of store.all()) {
      const below = lazy === undefined ? this.#lowestLazy(parent) : undefined;
      const image = lazy === undefined ? below && imageUpTo(below) : wholeImageOf(lazy);
      if (image !== undefined) needed.set(mounts.directoryOf(image), image);
    }
    return needed;
  }

  /** A part of an image stays mounted as long as there is a snapshot of its last layer: the next container wants it again. */
  #isKept(directory: string): boolean {
    const { store, mounts } = this.#options;
    if (this.#wanted.has(directory)) return true;
    return store.all().some(({ lazy }) => {
      if (lazy === undefined) return false;
      return [wholeImageOf(lazy), imageUpTo(lazy)].some((image) => mounts.directoryOf(image) === directory);
    });
  }

  async #putAside(id: string): Promise<void> {
    await rename(join(this.#snapshots, id), join(this.#removed, `${id}.${Date.now()}`)).catch(
      (error: NodeJS.ErrnoException) => {
        // A layer that is mounted has no directory.
        if (error.code !== "ENOENT") throw error;
      },
    );
  }

  async #collect(): Promise<void> {
    const { mounts, log, signal } = this.#options;
    for (const name of await readdir(this.#removed)) {
      if (signal.aborted) return;
      await rm(join(this.#removed, name), { recursive: true, force: true });
    }
    for (const directory of await mounts.list()) {
      if (signal.aborted) return;
      if (this.#isKept(directory)) continue;
      await mounts.unmount(directory);
      log.info("unmounted: no snapshot needs it", { directory });
    }
  }
}

function activeOf(record: SnapshotRecord): SnapshotRecord {
  if (record.kind === "active") return record;
  throw new OcifsError("busy", `snapshot ${record.name}: it is ${record.kind}, and only an active one is committed`);
}

const refusalKey = (labels: Labels): string =>
  `${labels[snapshotLabels.imageRef]} ${labels[snapshotLabels.manifestDigest]}`;

const wholeImageOf = ({ source, manifest, layers }: LazyLayer): MountedImage => ({
  source,
  manifest,
  layerCount: layers,
});

const imageUpTo = ({ source, manifest, layer }: LazyLayer): MountedImage => ({
  source,
  manifest,
  layerCount: layer + 1,
});

/** `index=off`, where the kernel knows it: a lower directory that is mounted again after a restart is not the same to an index. */
async function overlayOptions(): Promise<readonly string[]> {
  const known = await access("/sys/module/overlay/parameters/index").then(
    () => true,
    () => false,
  );
  return known ? ["index=off"] : [];
}
