import { gzipSync } from "node:zlib";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import { buildTar } from "../support/tar-builder.js";

/** Files `file-0`, `file-1`, … of one size, whose every byte follows from the seed. reader.c knows the same. */
export interface Shape {
  readonly seed: number;
  readonly files: number;
  readonly fileBytes: number;
}

export interface Layer {
  readonly shape: Shape;
  readonly gz: Buffer;
  readonly digest: Digest;
  readonly diffId: Digest;
}

function mix(value: number): number {
  let x = value >>> 0;
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

export function fileContent({ seed, fileBytes }: Shape, file: number): Buffer {
  const words = new Uint32Array(Math.ceil(fileBytes / 4));
  const start = mix((mix(seed) + file) >>> 0);
  for (let k = 0; k < words.length; k++) words[k] = mix((start + k) >>> 0) & 0x3f3f3f3f;
  return Buffer.from(words.buffer).subarray(0, fileBytes);
}

export function makeLayer(shape: Shape): Layer {
  const items = Array.from({ length: shape.files }, (_, file) => ({
    path: `file-${file}`,
    data: fileContent(shape, file),
  }));
  const tar = buildTar(items);
  const gz = gzipSync(tar, { level: 1 });
  return { shape, gz, digest: digestOfBytes(gz), diffId: digestOfBytes(tar) };
}
