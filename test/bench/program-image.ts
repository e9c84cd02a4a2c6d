import { cp, mkdir, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { SpanIndex } from "../../src/gzip/span-index.js";
import { openZinfo } from "../../src/gzip/zinfo.js";
import { indexPathsIn } from "../../src/index/files.js";
import type { IndexManifest } from "../../src/index/manifest.js";
import { repositoryRoot } from "../support/fixtures.js";
import type { Bench } from "./bench.js";
import { cacheFiles, ocifsProgram } from "./mounts.js";

export const programRepository = "bench/python";
/** What a start of the program is, below the root of the image. */
export const program = ["/usr/bin/python3", "-c", "import json,ssl"] as const;
/** The same of the smallest one that loads a library besides the C library (ls: libselinux). */
export const shell = ["/bin/sh", "-c", "ls / >/dev/null"] as const;
export const programWords = `chroot MNT python3 -c 'import json,ssl'`;

/** State bytes of a `spans` file begin here, docs/FORMATS.md. */
const SPANS_HEADER_BYTES = 4096;
const SPAN_PRESENT = 1;

/** A Debian image with python3, of two layers, in the bench's registry, and its indexes. */
export class ProgramImage {
  readonly #bench: Bench;
  /** A cache that has the indexes and nothing else. */
  readonly #indexes: string;

  private constructor(bench: Bench, indexes: string) {
    this.#bench = bench;
    this.#indexes = indexes;
  }

  static async open(bench: Bench): Promise<ProgramImage> {
    const directory = bench.stateDirectory("program");
    bench.say("image with python3 (made once)");
    await bench.run(join(repositoryRoot, "test", "bench", "program-image.sh"), [directory]);
    const { host } = await bench.registry();
    const layout = `oci:${join(directory, "layout")}:python`;
    bench.say("push of the image with python3");
    const to = `docker://${host}/${programRepository}:latest`;
    await bench.run("skopeo", ["--insecure-policy", "copy", "--dest-tls-verify=false", layout, to]);
    const indexes = await bench.freshDirectory("program-indexes");
    const options = ["--insecure", "--cachedir", indexes];
    const reference = `${host}/${programRepository}:latest`;
    await bench.run(process.execPath, [ocifsProgram, "index", "create", reference, ...options]);
    return new ProgramImage(bench, indexes);
  }

  /**
   * A new cache that knows the image's indexes and nothing of its layers. `profilesFrom`: another cache, whose access profiles it
   * has besides; without it there are none.
   */
  async coldCache(profilesFrom?: string): Promise<string> {
    const directory = await this.#bench.freshDirectory("cache");
    await mkdir(join(directory, "indexes"));
    await cp(join(profilesFrom ?? this.#indexes, "indexes"), join(directory, "indexes"), { recursive: true });
    return directory;
  }

  /**
   * Compressed size of the spans that reads have touched in a cache that began empty. A span is only decoded when the kernel has
   * asked for a byte of it: what is fetched ahead stays compressed.
   */
  async touchedBytes(cacheDirectory: string): Promise<number> {
    let bytes = 0;
    for (const path of await cacheFiles(cacheDirectory, "spans-")) {
      const hex = basename(dirname(path));
      const states = (await readFile(path)).subarray(SPANS_HEADER_BYTES);
      const paths = indexPathsIn(join(this.#indexes, "indexes", "sha256", hex), `sha256:${hex}`);
      const { blob, tar } = JSON.parse(await readFile(paths.jsonPath, "utf8")) as IndexManifest;
      const sizes = { blobSizeBytes: blob.sizeBytes, uncompressedSizeBytes: tar.sizeBytes, streamEnds: true };
      await using zinfo = await openZinfo(paths.zinfoPath, sizes);
      const spans = new SpanIndex(zinfo, sizes);
      for (let span = 0; span < spans.spanCount; span++) {
        if (states[span] !== SPAN_PRESENT) continue;
        const { begin, end } = spans.compressedRange(span);
        bytes += end - begin;
      }
    }
    return bytes;
  }
}
