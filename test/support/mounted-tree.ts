import assert from "node:assert/strict";
import { close, openSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { Cleanup } from "../../src/base/cleanup.js";
import { noMountFlags } from "../../src/cli/standard-words.js";
import type { Driver, Mounted, MountFlags, MountRequest } from "../../src/drivers/driver.js";
import { fuseDriver } from "../../src/drivers/fuse.js";
import { createLayerIndex } from "../../src/index/create.js";
import { EqualSpanTable } from "../../src/layer/equal-span-table.js";
import { ErofsImage } from "../../src/native/erofs.js";
import { SpanStore } from "../../src/native/layer.js";
import { memoryBlob } from "./blob-sources.js";

export interface Miss {
  readonly first: number;
  readonly last: number;
}

/** What happens to a read whose spans are missing: they come, it waits, or it fails with EIO, as the daemon does it. */
export type MissPolicy = "fill" | "hold" | "EIO";

export interface MountTreeOptions {
  readonly spanBytes?: number;
  readonly flags?: Partial<MountFlags>;
  /** Default: `fuse`. */
  readonly driver?: Driver;
  /** Spans come into files as the cache has them; default: into memory. */
  readonly onDisk?: boolean;
  /** Changes the tarindex before it is mounted. */
  readonly patchIndex?: (path: string) => Promise<void>;
  /** Takes this index instead of one made here. */
  readonly index?: Uint8Array;
  /** Mounts there instead of on a directory of its own. */
  readonly at?: string;
}

/** Indexes of tars that were mounted before: a tar is mounted often, and always the same object. */
const indexes = new WeakMap<Uint8Array, Uint8Array>();

/**
 * A tar mounted by this very process, without registry, network or cache: the test decides when
 * missing bytes come. Never touch the mount with Node's own fs while reads are held; use Syscalls.
 */
export class MountedTree implements AsyncDisposable {
  policy: MissPolicy = "fill";
  /** Spans come into memory, as when the disk is full. */
  onlyMemory = false;
  /** Misses so far, in order. */
  readonly misses: Miss[] = [];
  readonly #cleanup = new Cleanup();
  readonly #waiting = new Set<() => void>();
  readonly #filling = new Map<number, Promise<unknown>>();

  private constructor(
    readonly mountpoint: string,
    readonly mounted: Mounted,
    readonly image: ErofsImage,
    readonly store: SpanStore,
    readonly table: EqualSpanTable,
    readonly tarFd: number,
  ) {}

  static async mount(tar: Uint8Array, options: MountTreeOptions = {}): Promise<MountedTree> {
    const cleanup = new Cleanup();
    try {
      const directory = await mkdtemp(join(tmpdir(), "ocifs-tree-"));
      cleanup.defer(() => rm(directory, { recursive: true }));
      await chmod(directory, 0o755); // for tests as another user
      const tarPath = join(directory, "tar");
      await writeFile(tarPath, tar);
      const tarindexPath = join(directory, "tarindex");
      await writeFile(tarindexPath, options.index ?? (await indexOf(directory, tar)));
      await options.patchIndex?.(tarindexPath);
      const indexFd = openSync(tarindexPath, "r");
      const image = new ErofsImage(indexFd, { xattrsAreFlagged: options.index === undefined });
      await promisify(close)(indexFd);
      cleanup.defer(() => image.close());
      const tarFd = openSync(tarPath, "r");
      cleanup.defer(() => promisify(close)(tarFd));
      const table = new EqualSpanTable({
        encoding: "tar",
        blobSizeBytes: (image.info().devices[0]?.blocks ?? 0) * 512,
        sizeBytes: (image.info().devices[0]?.blocks ?? 0) * 512,
        spanBytes: options.spanBytes ?? 64 << 10,
      });
      const openFile = (name: string) => (options.onDisk ? openSync(join(directory, name), "w+") : -1);
      const store = new SpanStore({
        dataFd: openFile("data"),
        spansFd: openFile("spans"),
        outStarts: table.outStarts,
        partition: table.partition,
        bootId: new Uint8Array(16),
        memoryBytes: 256 << 20,
      });
      cleanup.defer(() => store.close());
      const mountpoint = options.at ?? join(directory, "mnt");
      if (options.at === undefined) await mkdir(mountpoint);
      let tree: MountedTree | undefined;
      const request: MountRequest = {
        mountpoint,
        sourceName: "test",
        tree: {
          image,
          devices: [store],
          ...(options.onDisk ? { watch: () => store.watch(), checked: () => true, directory } : {}),
        },
        // Kept by whoever runs the test, who outlives it.
        keeper: { pid: process.ppid, keep: async () => undefined },
        allowOther: false,
        flags: { ...noMountFlags, ...options.flags },
        securityOptions: [],
        onMiss: (_device, first, last) => {
          // While it is being mounted a kernel file system may read what the tree lies on.
          tree?.onMiss({ first, last });
        },
      };
      const mounted = await (options.driver ?? fuseDriver).mount(request);
      tree = new MountedTree(mountpoint, mounted, image, store, table, tarFd);
      tree.#cleanup.add(cleanup);
      tree.#cleanup.add(mounted);
      return tree;
    } catch (error) {
      await cleanup[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Resolves once there have been `count` misses in all. */
  async missed(count: number): Promise<void> {
    while (this.misses.length < count) await new Promise<void>((resolve) => this.#waiting.add(resolve));
  }

  /** Lets everything come that was held, and what is missing from now on. */
  async release(): Promise<void> {
    this.policy = "fill";
    for (const { first, last } of this.misses) await this.fill(first, last);
  }

  /** Brings these spans, unless they are here or on their way. */
  async fill(first: number, last: number): Promise<void> {
    for (const span of this.store.absent(first, last)) {
      if (!this.#filling.has(span)) this.#filling.set(span, this.#fillSpan(span));
    }
    await Promise.all(this.#filling.values());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.mounted.unmount();
    await Promise.all(this.#filling.values());
    await this.#cleanup[Symbol.asyncDispose]();
  }

  onMiss(miss: Miss): void {
    this.misses.push(miss);
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
    if (this.policy === "fill") void this.fill(miss.first, miss.last);
    else if (this.policy !== "hold") this.store.fail(miss.first, miss.last, constants.errno.EIO);
  }

  async #fillSpan(span: number): Promise<void> {
    const failed = await this.store.fill({
      span,
      gzip: false,
      fd: this.tarFd,
      ...this.table.compressedRange(span),
      ...this.table.decodeInput(),
      digest: undefined,
      discard: false,
      onlyMemory: this.onlyMemory,
    });
    assert.equal(failed, undefined);
    this.#filling.delete(span);
  }
}

async function indexOf(directory: string, tar: Uint8Array): Promise<Uint8Array> {
  const known = indexes.get(tar);
  if (known !== undefined) return known;
  const created = await createLayerIndex({ source: memoryBlob(tar), output: { directory } });
  const index = await readFile(created.tarindexPath);
  indexes.set(tar, index);
  return index;
}
