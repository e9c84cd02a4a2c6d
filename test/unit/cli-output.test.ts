import assert from "node:assert/strict";
import { test } from "node:test";
import { Progress, printableName, printJson, printTable } from "../../src/cli/output.js";

function sink(): { write(text: string): void; text: string } {
  return {
    text: "",
    write(text) {
      this.text += text;
    },
  };
}

test("progress off a terminal: a line a second at most, and an end", () => {
  const out = sink();
  let nowMs = 5000;
  const progress = new Progress("fetch layer", { sink: out, now: () => nowMs, totalBytes: 4096 });
  for (nowMs = 5000; nowMs < 8000; nowMs += 100) progress.update(nowMs - 5000);
  nowMs = 8200;
  progress.update(4096);
  progress.finish();
  progress.finish();
  progress.update(1);
  assert.equal(
    out.text,
    [
      "fetch layer: 1000 B of 4.0 KiB (24%)",
      "fetch layer: 2.0 KiB of 4.0 KiB (48%)",
      "fetch layer: 4.0 KiB of 4.0 KiB (100%)",
      "fetch layer: 4.0 KiB of 4.0 KiB (100%), done in 3.2 s",
      "",
    ].join("\n"),
  );
});

test("a step under a second says nothing, a longer one at least its end", () => {
  const out = sink();
  let nowMs = 0;
  using quick = new Progress("quick", { sink: out, now: () => nowMs });
  nowMs = 999;
  quick.update(10);
  quick.finish();
  const slow = new Progress("slow", { sink: out, now: () => nowMs });
  slow.update(2048);
  nowMs += 1500;
  slow.finish("3 files");
  assert.equal(out.text, "slow: 2.0 KiB, 3 files in 1.5 s\n");
});

test("a step that is left by an exception ends as stopped", () => {
  const out = sink();
  let nowMs = 0;
  assert.throws(() => {
    using progress = new Progress("work", { sink: out, now: () => nowMs, totalBytes: 0 });
    nowMs = 1200;
    progress.update(0, 10);
    throw new Error("broken");
  }, /broken/);
  assert.equal(out.text, "work: 0 B of 10 B (0%)\nwork: 0 B of 10 B (0%), stopped in 1.2 s\n");
});

test("tables align their columns and end without blanks", () => {
  const out = sink();
  printTable(
    out,
    [{ title: "NAME" }, { title: "SIZE", align: "right" }, { title: "NOTE" }],
    [
      ["a", "12 B", ""],
      ["long name ü", "1.0 KiB", "x"],
    ],
  );
  assert.equal(out.text, "NAME            SIZE  NOTE\na               12 B\nlong name ü  1.0 KiB  x\n");
  const empty = sink();
  printTable(empty, [{ title: "NAME" }], []);
  assert.equal(empty.text, "NAME\n");
});

test("JSON is one document, with large numbers as text", () => {
  const out = sink();
  printJson(out, { a: [1], b: 2n ** 60n });
  assert.deepEqual(JSON.parse(out.text), { a: [1], b: "1152921504606846976" });
  assert.ok(out.text.endsWith("}\n"));
});

test("names reach the terminal without control characters", () => {
  const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
  assert.equal(printableName(encode("grün.txt")), "grün.txt");
  assert.equal(printableName(encode("a\u001b[2Jb\n")), "a\\033[2Jb\\012");
  assert.equal(printableName(encode("a\\b")), "a\\134b");
  assert.equal(printableName(encode("x\u202ey")), "x\\342\\200\\256y");
  assert.equal(printableName(encode("\u0085")), "\\302\\205");
  assert.equal(printableName(Uint8Array.of(0x66, 0xfc, 0x5c, 0x72)), "f\\374\\134r");
});
