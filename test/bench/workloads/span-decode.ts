import { join } from "node:path";
import { repositoryRoot } from "../../support/fixtures.js";
import type { Bench } from "../bench.js";
import { atLeast, type Figure, Pairs } from "../figures.js";

const decoder = join(repositoryRoot, "dist", "test", "bench", "decode-layer.js");

/** What decode-layer.ts prints. */
interface Decoded {
  readonly ns: number;
  readonly bytes: number;
  readonly spans: number;
}

/** All spans of a layer through its zinfo, as reads decode them, beside one pass of pigz. */
export async function spanDecode(bench: Bench): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const name of ["debian", "large"] as const) {
    const { path } = await bench.layer(name);
    const { jsonPath } = await bench.index(name);
    const pairs = { decode: new Pairs(), check: new Pairs(), keep: new Pairs(), whole: new Pairs() };
    const { stdout } = await bench.pipeline('gunzip -c "$1" | wc -c', path);
    for (let i = 0; i < bench.repeats; i++) {
      bench.say(`span decode, ${name}, ${i + 1} of ${bench.repeats}`);
      // Both from the page cache: this is about processors.
      await bench.pipeline('cat "$1" >/dev/null', path);
      const pigz = await bench.measurePipeline('pigz -dc "$1" >/dev/null', path);
      for (const mode of ["decode", "check", "keep"] as const) {
        const work = await bench.freshDirectory("decode");
        const run = await bench.measure(process.execPath, [decoder, mode, path, jsonPath, work]);
        const decoded = JSON.parse(run.stdout) as Decoded;
        if (decoded.bytes !== Number(stdout)) throw new Error(`span decode: ${decoded.bytes} bytes, want ${stdout}`);
        pairs[mode].add(decoded.ns / 1e6, pigz.ns / 1e6);
        if (mode === "decode") pairs.whole.add(run.ns / 1e6, pigz.ns / 1e6);
        await bench.discard(work);
      }
    }
    const about = (what: string, mode: string) => ({
      workload: "span decode",
      name: `layer "${name}", ${what}`,
      unit: "ms" as const,
      command: `node dist/test/bench/decode-layer.js ${mode} LAYER INDEX.json DIR; beside pigz -dc LAYER >/dev/null`,
      referenceName: "pigz -dc",
    });
    figures.push(
      pairs.decode.toFigure("time", about("decoded", "decode"), atLeast(2.5)),
      pairs.whole.toFigure("time", about("decoded, start of Node included", "decode")),
      pairs.check.toFigure("time", about("decoded, digests checked", "check")),
      pairs.keep.toFigure("time", about("decoded, checked, written to a cache", "keep")),
    );
  }
  return figures;
}
