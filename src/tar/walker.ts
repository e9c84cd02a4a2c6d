import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { assembleEntry, dataBytesOf, type SparseFormat, sparseFormatOf } from "./assemble.js";
import type { TarEntry } from "./entry.js";
import { Extensions } from "./extensions.js";
import { blockBytes, classifyBlock, decodeHeader, nameOf, type TarHeader, typeflags } from "./header.js";
import { PlainEntries } from "./plain-entries.js";
import { EntryPlace, type Where } from "./quote.js";
import { oldGnuExtensionMap, oldGnuHeaderMap, oldGnuPieces, SparseMapReader, type SparsePiece } from "./sparse.js";

/** What is known about the archive once its last byte was pushed. */
export interface TarEnd {
  readonly entryCount: number;
  /** All bytes pushed. */
  readonly sizeBytes: number;
  /** Byte after the second zero block, or after the last entry when the end marker is missing. */
  readonly endOffset: number;
  /** False when the archive just stops at a block border. */
  readonly endMarkerFound: boolean;
  /** Bytes after the end marker: padding to the writer's record size, or anything else. They are not looked at. */
  readonly trailingBytes: number;
}

/** A header whose entry needs more blocks before it can be told. */
interface Unfinished {
  readonly header: TarHeader;
  readonly headerOffset: number;
  readonly where: Where;
  readonly format: SparseFormat;
  pieces: SparsePiece[];
  /** PAX 1.0 only. */
  readonly map: SparseMapReader;
}

/** Told of entries: in order, each once. */
export interface TarVisitor {
  entry(entry: TarEntry): void;
  /** Several that are nothing special; without it they come one by one, too. They are to be used before this returns. */
  plainEntries?(entries: PlainEntries): void;
}

type State = "header" | "payload" | "sparse-extension" | "sparse-map" | "end";

/**
 * Reads a tar pushed in pieces of any size and tells each entry once its headers are complete. File content is passed over, never
 * kept; what is kept at most is one block and one extended header (limits.paxBytes). All input is hostile: every error is
 * an OcifsError (`corrupt`, `unsupported`, `limit`), after which the walker is of no further use.
 */
export class TarWalker {
  readonly #visitor: TarVisitor;
  readonly #plain = new PlainEntries();
  readonly #extensions = new Extensions();
  readonly #block = new Uint8Array(blockBytes);
  #blockFill = 0;
  #state: State = "header";
  /** Bytes pushed and used so far. */
  #offset = 0;
  #skipBytes = 0;
  /** How many of the last entry's bytes to skip are padding. */
  #paddingBytes = 0;
  #payload = noPayload;
  #payloadFill = 0;
  #payloadType = 0;
  #unfinished: Unfinished | undefined;
  #zeroBlocks = 0;
  #entryCount = 0;
  #endOffset = 0;
  #trailingBytes = 0;
  /** What the bytes being passed over belong to, for the message when the archive ends there. */
  #current: Where = "tar";

  constructor(visitor: TarVisitor | ((entry: TarEntry) => void)) {
    this.#visitor = typeof visitor === "function" ? { entry: visitor } : visitor;
  }

  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length) {
      at += this.#scan(chunk, at);
      const left = chunk.length - at;
      if (left === 0) return;
      let used: number;
      if (this.#state === "end") {
        used = left;
        this.#trailingBytes += used;
      } else if (this.#skipBytes > 0) {
        used = Math.min(left, this.#skipBytes);
        this.#skipBytes -= used;
      } else if (this.#state === "payload") {
        used = Math.min(left, this.#payload.length - this.#payloadFill);
        this.#payload.set(chunk.subarray(at, at + used), this.#payloadFill);
        this.#payloadFill += used;
      } else {
        used = Math.min(left, blockBytes - this.#blockFill);
        if (used < blockBytes) this.#block.set(chunk.subarray(at, at + used), this.#blockFill);
        this.#blockFill += used;
      }
      this.#offset += used;
      at += used;
      if (this.#state === "payload" && this.#payloadFill === this.#payload.length) {
        this.#endPayload();
      } else if (this.#blockFill === blockBytes) {
        this.#blockFill = 0;
        this.#onBlock(used === blockBytes ? chunk.subarray(at - blockBytes, at) : this.#block);
      }
    }
  }

  /** Tells the entries that are plain to see from byte `at` of the chunk on, and gives how many bytes they and their content took. */
  #scan(chunk: Uint8Array, at: number): number {
    const skip = this.#skipBytes;
    if (
      this.#state !== "header" ||
      this.#blockFill > 0 ||
      this.#zeroBlocks > 0 ||
      chunk.length - at < skip + blockBytes
    ) {
      return 0;
    }
    if (!this.#extensions.neutral) return 0;
    const plain = this.#plain;
    const start = this.#offset;
    plain.scan(chunk, at, { skip, maximum: limits.tarEntries - this.#entryCount, base: start - at });
    const used = plain.end - at;
    this.#offset += used;
    this.#skipBytes = plain.skipBytes;
    const last = plain.count - 1;
    if (last < 0) return used;
    this.#entryCount += plain.count;
    this.#paddingBytes = padded(plain.sizeBytes(last)) - plain.sizeBytes(last);
    const header = at + plain.headerOffset(last) - start;
    this.#current = new EntryPlace(nameOf(chunk.subarray(header, header + blockBytes)), plain.headerOffset(last));
    if (this.#visitor.plainEntries !== undefined) this.#visitor.plainEntries(plain);
    else for (let i = 0; i <= last; i++) this.#visitor.entry(plain.entry(i));
    return used;
  }

  /** In place of pushing `sizeBytes` of file content that the caller has elsewhere: the tar must be at a file's content. */
  pass(sizeBytes: number): void {
    if (sizeBytes > this.#skipBytes - this.#paddingBytes) {
      throw new OcifsError(
        "corrupt",
        `${this.#current}: ${sizeBytes} bytes of content at byte ${this.#offset}, where fewer are left`,
      );
    }
    this.#skipBytes -= sizeBytes;
    this.#offset += sizeBytes;
  }

  /** To be called after the last byte. Throws `corrupt` when the archive stops inside an entry. */
  finish(): TarEnd {
    // Some writers stop after the last file's content, without its padding or an end marker; Go's reader, which container tools
    // use, takes that for the end.
    const onlyPadding = this.#skipBytes <= this.#paddingBytes;
    if ((this.#skipBytes > 0 && !onlyPadding) || this.#state === "payload" || this.#unfinished !== undefined) {
      const missing = this.#skipBytes > 0 ? `${this.#skipBytes} more bytes` : "more header blocks";
      throw new OcifsError("corrupt", `${this.#current}: the tar ends at byte ${this.#offset}, want ${missing}`);
    }
    if (this.#blockFill > 0) {
      throw new OcifsError("corrupt", `tar: ends at byte ${this.#offset}, inside a 512-byte header block`);
    }
    if (this.#extensions.pending) this.#refuseDangling();
    return {
      entryCount: this.#entryCount,
      sizeBytes: this.#offset,
      endOffset: this.#state === "end" ? this.#endOffset : this.#offset,
      endMarkerFound: this.#state === "end",
      trailingBytes: this.#trailingBytes,
    };
  }

  #refuseDangling(): never {
    throw new OcifsError("corrupt", `tar: ends at byte ${this.#offset} with an extended header that no entry follows`);
  }

  #onBlock(block: Uint8Array): void {
    if (this.#state === "sparse-extension") this.#onSparseExtension(block);
    else if (this.#state === "sparse-map") this.#onSparseMap(block);
    else this.#onHeader(block);
  }

  #onHeader(block: Uint8Array): void {
    const headerOffset = this.#offset - blockBytes;
    const kind = classifyBlock(block);
    if (kind === "zero") {
      this.#zeroBlocks++;
      if (this.#zeroBlocks < 2) return;
      if (this.#extensions.pending) this.#refuseDangling();
      this.#state = "end";
      this.#endOffset = this.#offset;
      return;
    }
    if (this.#zeroBlocks > 0) {
      throw new OcifsError(
        "corrupt",
        `tar: block at byte ${headerOffset - blockBytes} is zero and the next one is not; the end marker is two`,
      );
    }
    if (kind === "bad-checksum") {
      throw new OcifsError(
        "corrupt",
        `tar: header at byte ${headerOffset} has a wrong checksum; this is no tar, or a damaged one`,
      );
    }
    const name = nameOf(block);
    const where = new EntryPlace(this.#extensions.path() ?? name, headerOffset);
    const header = decodeHeader(block, name, where);
    this.#current = where;
    if (header.sizeBytes < 0) throw new OcifsError("corrupt", `${where}: size is negative`);
    switch (header.typeflag) {
      case typeflags.paxLocal:
      case typeflags.paxGlobal:
      case typeflags.gnuLongName:
      case typeflags.gnuLongLink:
        this.#beginPayload(header, where);
        return;
      case typeflags.gnuVolume:
        this.#skipBytes = padded(header.sizeBytes);
        this.#paddingBytes = 0;
        return;
    }
    this.#entryCount++;
    if (this.#entryCount > limits.tarEntries) {
      throw new OcifsError("limit", `${where}: the layer has more than ${limits.tarEntries} entries`);
    }
    const format = sparseFormatOf(header, this.#extensions, where);
    if (format === undefined) {
      this.#emit(header, headerOffset, where, undefined);
      return;
    }
    const unfinished: Unfinished = { header, headerOffset, where, format, pieces: [], map: new SparseMapReader() };
    if (format.kind === "old-gnu") {
      unfinished.pieces.push(...oldGnuPieces(block, oldGnuHeaderMap, where));
      if (block[oldGnuHeaderMap.moreAt] === 0) this.#emit(header, headerOffset, where, unfinished);
      else this.#await("sparse-extension", unfinished);
    } else if (format.kind === "pax-map") {
      this.#await("sparse-map", unfinished);
    } else {
      unfinished.pieces = [...format.pieces];
      this.#emit(header, headerOffset, where, unfinished);
    }
  }

  #await(state: State, unfinished: Unfinished): void {
    this.#state = state;
    this.#unfinished = unfinished;
  }

  #beginPayload(header: TarHeader, where: Where): void {
    this.#paddingBytes = 0;
    if (header.sizeBytes > limits.paxBytes) {
      throw new OcifsError(
        "limit",
        `${where}: extended header of ${header.sizeBytes} bytes, the limit is ${limits.paxBytes}`,
      );
    }
    // Filled before anyone reads it.
    this.#payload = Buffer.allocUnsafe(header.sizeBytes);
    this.#payloadFill = 0;
    this.#payloadType = header.typeflag;
    this.#state = "payload";
    if (header.sizeBytes === 0) this.#endPayload();
  }

  #endPayload(): void {
    const payload = this.#payload;
    switch (this.#payloadType) {
      case typeflags.paxLocal:
        this.#extensions.setLocal(payload, this.#current);
        break;
      case typeflags.paxGlobal:
        this.#extensions.addGlobal(payload, this.#current);
        break;
      case typeflags.gnuLongName:
        this.#extensions.setLongName(payload);
        break;
      default:
        this.#extensions.setLongLink(payload);
    }
    this.#skipBytes = padded(payload.length) - payload.length;
    this.#payload = noPayload;
    this.#state = "header";
  }

  #onSparseExtension(block: Uint8Array): void {
    const unfinished = this.#takeUnfinished();
    unfinished.pieces.push(...oldGnuPieces(block, oldGnuExtensionMap, unfinished.where));
    this.#limitMap(unfinished, unfinished.pieces.length * 24);
    if (block[oldGnuExtensionMap.moreAt] !== 0) this.#await("sparse-extension", unfinished);
    else this.#emit(unfinished.header, unfinished.headerOffset, unfinished.where, unfinished);
  }

  #onSparseMap(block: Uint8Array): void {
    const unfinished = this.#takeUnfinished();
    const pieces = unfinished.map.push(block, unfinished.where);
    this.#limitMap(unfinished, unfinished.map.bytes);
    if (unfinished.map.bytes > dataBytesOf(unfinished.header, this.#extensions, unfinished.where)) {
      throw new OcifsError("corrupt", `${unfinished.where}: the sparse map does not end inside the entry`);
    }
    if (pieces === undefined) {
      this.#await("sparse-map", unfinished);
      return;
    }
    this.#emit(unfinished.header, unfinished.headerOffset, unfinished.where, { ...unfinished, pieces });
  }

  #takeUnfinished(): Unfinished {
    const unfinished = this.#unfinished;
    if (unfinished === undefined) throw new OcifsError("internal", "tar: a sparse map block without its header");
    this.#unfinished = undefined;
    this.#state = "header";
    return unfinished;
  }

  #limitMap(unfinished: Unfinished, mapBytes: number): void {
    if (mapBytes > limits.tarSparseMapBytes) {
      throw new OcifsError("limit", `${unfinished.where}: sparse map larger than ${limits.tarSparseMapBytes} bytes`);
    }
  }

  /** The header's blocks are all read: `#offset` is where the entry's data begins. */
  #emit(header: TarHeader, headerOffset: number, where: Where, sparse: Unfinished | undefined): void {
    const { entry, dataBytes } = assembleEntry({
      header,
      headerOffset,
      where,
      dataOffset: this.#offset,
      extensions: this.#extensions,
      sparse: sparse && { format: sparse.format, pieces: sparse.pieces, mapBytes: sparse.map.bytes },
    });
    this.#extensions.clear();
    this.#skipBytes = padded(dataBytes);
    this.#paddingBytes = this.#skipBytes - dataBytes;
    this.#visitor.entry(entry);
  }
}

const noPayload = Buffer.alloc(0);

function padded(sizeBytes: number): number {
  return Math.ceil(sizeBytes / blockBytes) * blockBytes;
}
