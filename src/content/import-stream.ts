import { closeSync, fstatSync } from "node:fs";
import { join } from "node:path";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import { closeFd, openFd, readAt, writeFully } from "../cache/raw-file.js";
import { writeTarindex } from "../erofs/tarindex-writer.js";
import { openTarindexInMemory } from "../image/tarindex-memory.js";
import { TarTree, type WhiteoutMode } from "../index/tar-tree.js";
import { type FileSource, stageFile, type TreeCounts } from "../native/content.js";
import { algorithmOf, type Digest, hasherOf } from "../oci/digest.js";
import type { ContentReference, StreamEvent } from "../splitfd/events.js";
import { ChunkDecoder } from "../splitfd/framing.js";
import { splitDirFdFraming } from "../splitfd/splitdirfdstream.js";
import { splitFdFraming } from "../splitfd/splitfdstream.js";
import { type Reading, TarAssembler, type TarSink } from "../splitfd/tar-assembler.js";
import type { TarEntry } from "../tar/entry.js";
import type { Destination } from "./destination.js";
import { writeTree } from "./write-tree.js";

const PIECE_BYTES = 1 << 20;
/** Parts that wait to be hashed: the disk reads ahead in the files among them. Each of bytes is a piece of the stream at most. */
const QUEUED = 64;

export type StreamFormat = "tar" | "splitfdstream" | "splitdirfdstream";

export interface ImportStreamOptions {
  /** See decodeStream and layerEvents. */
  readonly events: AsyncIterable<StreamEvent>;
  /** Of splitfdstream. */
  readonly reading?: Reading;
  /** What the stream's references count: descriptors of files, and of directories. They stay the caller's. */
  readonly files?: readonly number[];
  /** Instead of `files`: a directory in which each has its number for a name. */
  readonly filesDirectory?: number;
  readonly directories?: readonly number[];
  readonly diffId: Digest;
  readonly whiteouts: WhiteoutMode;
  readonly signal: AbortSignal;
}

/**
 * Makes the tree of a layer that comes as a stream below a directory that is not seen yet. What the stream names is shared or copied
 * first, and hashed as it then is: nobody can exchange it after the check. `mismatch` unless all of it has the wanted diffID, and then
 * nothing was made.
 */
export async function importStream(o: ImportStreamOptions, destination: Destination): Promise<TreeCounts> {
  await using staged = await StagedLayer.create(o, destination);
  const assembler = new TarAssembler(staged, o.reading);
  for await (const event of o.events) {
    throwIfAborted(o.signal, "import");
    await assembler.take(event);
  }
  await assembler.finish();
  await staged.finish();
  return await staged.write(assembler.sizeBytes);
}

/** The events of a layer's stream in one of the formats. */
export async function* decodeStream(
  stream: AsyncIterable<Uint8Array>,
  format: StreamFormat,
): AsyncGenerator<StreamEvent> {
  if (format === "tar") {
    for await (const bytes of stream) {
      yield { kind: "begin", of: "metadata", sizeBytes: bytes.length };
      yield { kind: "bytes", bytes };
    }
    return;
  }
  const decoder = new ChunkDecoder(format === "splitfdstream" ? splitFdFraming : splitDirFdFraming);
  for await (const bytes of stream) yield* decoder.push(bytes);
  decoder.finish();
}

/** A part of the tar: bytes, or a file that is on its way into the staging directory. */
type Unhashed =
  | { readonly bytes: Uint8Array }
  | { readonly staged: ReturnType<typeof stageFile>; readonly sizeBytes: number };

/** The contents of a layer on the way: those in the stream in a copy of its tar that has holes, the others in files. */
class StagedLayer implements TarSink, AsyncDisposable {
  readonly #o: ImportStreamOptions;
  readonly #destination: Destination;
  readonly #spoolFd: number;
  readonly #tree: TarTree;
  readonly #hash;
  /** Names of staged files by where their content is in the tar. */
  readonly #names = new Map<number, Uint8Array>();
  /** What is to be hashed, in the order of the tar; the files in it are being shared or copied meanwhile. */
  readonly #unhashed: Unhashed[] = [];
  readonly #pending = Buffer.alloc(PIECE_BYTES);
  #pendingAt = 0;
  #pendingBytes = 0;
  #cloned = 0;
  #copied = 0;

  private constructor(o: ImportStreamOptions, destination: Destination, spoolFd: number) {
    this.#o = o;
    this.#destination = destination;
    this.#spoolFd = spoolFd;
    this.#tree = new TarTree({ whiteouts: o.whiteouts });
    this.#hash = hasherOf(o.diffId);
  }

  static async create(o: ImportStreamOptions, destination: Destination): Promise<StagedLayer> {
    return new StagedLayer(o, destination, await openFd(join(destination.stagingPath, "tar"), "create"));
  }

  entry(entry: TarEntry): void {
    this.#tree.add(entry);
  }

  async bytes(bytes: Uint8Array, offset: number): Promise<void> {
    if (this.#unhashed.length === 0) this.#hash.update(bytes);
    else this.#unhashed.push({ bytes: Uint8Array.from(bytes) });
    await this.#hashUntil(QUEUED);
    if (offset !== this.#pendingAt + this.#pendingBytes || bytes.length > PIECE_BYTES - this.#pendingBytes)
      await this.#flush();
    if (bytes.length > PIECE_BYTES) {
      await writeFully(this.#spoolFd, bytes, offset);
      return;
    }
    if (this.#pendingBytes === 0) this.#pendingAt = offset;
    this.#pending.set(bytes, this.#pendingBytes);
    this.#pendingBytes += bytes.length;
  }

  async reference(to: ContentReference, { dataOffset, sizeBytes }: TarEntry): Promise<void> {
    const name = Buffer.from(`${this.#names.size}`);
    const staged = stageFile(this.#destination.stagingFd, name, this.#sourceOf(to), sizeBytes);
    // Awaited in its turn; a failure is told then.
    staged.catch(() => undefined);
    this.#unhashed.push({ staged, sizeBytes });
    this.#names.set(dataOffset, name);
    await this.#hashUntil(QUEUED);
  }

  /** To be called when all of the tar is there. Throws `mismatch`. */
  async finish(): Promise<void> {
    await this.#flush();
    await this.#hashUntil(0);
    const { diffId } = this.#o;
    const found = `${algorithmOf(diffId)}:${this.#hash.digest("hex")}`;
    if (found !== diffId)
      throw new OcifsError("mismatch", `import: the layer's tar has digest ${found}, want ${diffId}`);
  }

  async write(tarBytes: number): Promise<TreeCounts> {
    const { tree, danglingLinks } = this.#tree.finish();
    const [link] = danglingLinks;
    if (link) {
      throw new OcifsError(
        "unsupported",
        `import: ${danglingLinks.length} hard links lead to layers below, the first is ${JSON.stringify(Buffer.from(link.path).toString())}; import the whole image`,
      );
    }
    const blocks = Math.ceil(tarBytes / 512);
    using image = await openTarindexInMemory(
      writeTarindex(tree, { devices: [{ tag: "", blocks }], uuid: new Uint8Array(16) }),
    );
    const counts = await writeTree({
      tree: image,
      rootFd: this.#destination.rootFd,
      sources: [this.#spoolFd, this.#destination.stagingFd],
      placeOf: (_device, offset, _size, whole) => {
        const name = whole ? this.#names.get(offset) : undefined;
        return name ? { kind: "move", source: 1, name } : { kind: "ranges", source: 0 };
      },
      signal: this.#o.signal,
    });
    return { ...counts, cloned: counts.cloned + this.#cloned, copied: counts.copied + this.#copied };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.#unhashed.splice(0)) {
      if (!("staged" in one)) continue;
      const [result] = await Promise.allSettled([one.staged]);
      if (result.status === "fulfilled") closeSync(result.value.fd);
    }
    await closeFd(this.#spoolFd);
  }

  /** Hashes from the front until at most `left` are left. */
  async #hashUntil(left: number): Promise<void> {
    while (this.#unhashed.length > left) {
      const next = this.#unhashed.shift();
      if (!next) return;
      if ("bytes" in next) {
        this.#hash.update(next.bytes);
        continue;
      }
      const { fd, cloned } = await next.staged;
      try {
        await this.#hashFile(fd, next.sizeBytes);
      } finally {
        closeSync(fd);
      }
      if (cloned > 0) this.#cloned++;
      else this.#copied++;
    }
  }

  #sourceOf(to: ContentReference): FileSource {
    const { files = [], filesDirectory, directories = [] } = this.#o;
    if (to.kind === "fd") {
      if (filesDirectory !== undefined) return { directory: filesDirectory, name: Buffer.from(`${to.index}`) };
      const fd = files[to.index];
      if (fd === undefined)
        throw new OcifsError("corrupt", `splitfdstream: descriptor ${to.index}, ${files.length} came with it`);
      return { fd };
    }
    const directory = directories[to.directory];
    if (directory === undefined) {
      throw new OcifsError(
        "corrupt",
        `splitdirfdstream: directory ${to.directory}, ${directories.length} came with it`,
      );
    }
    // Only what is used must be a directory: others may stand in unused places.
    if (!fstatSync(directory).isDirectory())
      throw new OcifsError("corrupt", `splitdirfdstream: descriptor ${to.directory} is no directory`);
    return { directory, name: to.name };
  }

  async #hashFile(fd: number, sizeBytes: number): Promise<void> {
    const buffer = Buffer.allocUnsafe(Math.min(PIECE_BYTES, sizeBytes));
    for (let at = 0; at < sizeBytes; ) {
      const read = await readAt(fd, buffer.subarray(0, Math.min(buffer.length, sizeBytes - at)), at);
      if (read === 0)
        throw new OcifsError("io", `import: a file that was staged ends at byte ${at}, want ${sizeBytes}`);
      this.#hash.update(buffer.subarray(0, read));
      at += read;
    }
  }

  async #flush(): Promise<void> {
    if (this.#pendingBytes > 0)
      await writeFully(this.#spoolFd, this.#pending.subarray(0, this.#pendingBytes), this.#pendingAt);
    this.#pendingBytes = 0;
  }
}
