import assert from "node:assert/strict";
import { test } from "node:test";
import { BuildDisplay } from "../../src/cli/build-display.js";

function setUp() {
  const state = { nowMs: 5000, text: "" };
  const sink = {
    write: (text: string) => {
      state.text += text;
    },
  };
  return { state, display: new BuildDisplay("mount.ocifs", { sink, now: () => state.nowMs }) };
}

const MIB = 1 << 20;
const at = (doneBytes: number) => ({ layers: 3, doneBytes, totalBytes: 100 * MIB });

test("off a terminal a long build has a few lines, however often it is told", () => {
  const { state, display } = setUp();
  for (let i = 0; i <= 1000; i++, state.nowMs += 100) display.update(at((i * MIB) / 10));
  display.finish();
  display.finish();
  assert.deepEqual(state.text.split("\n"), [
    "mount.ocifs: the index of 3 layers, 100 MiB, is not there yet; building it",
    "mount.ocifs: 25% of 100 MiB",
    "mount.ocifs: 50% of 100 MiB",
    "mount.ocifs: 75% of 100 MiB",
    "mount.ocifs: 100% of 100 MiB",
    "mount.ocifs: the index is built after 1 m 40 s",
    "",
  ]);
});

test("a build under a second says nothing, and so does no build", () => {
  const { state, display } = setUp();
  display.finish();
  display.update(at(0));
  state.nowMs += 999;
  display.update(at(100 * MIB));
  display.finish();
  assert.equal(state.text, "");
});

test("a build that ends by an exception is stopped", () => {
  const { state, display } = setUp();
  assert.throws(() => {
    using shown = display;
    shown.update({ layers: 1, doneBytes: 0, totalBytes: 0 });
    state.nowMs += 1500;
    shown.update({ layers: 1, doneBytes: 0, totalBytes: 0 });
    throw new Error("broken");
  }, /broken/);
  assert.equal(
    state.text,
    "mount.ocifs: the index of one layer, 0 B, is not there yet; building it\nmount.ocifs: stopped after 1.5 s\n",
  );
});

test("a layer that is read once more does not repeat lines", () => {
  const { state, display } = setUp();
  for (const share of [0, 10, 60, 0, 30, 55, 80]) {
    display.update(at(share * MIB));
    state.nowMs += 1000;
  }
  display.finish();
  assert.deepEqual(
    state.text.split("\n").map((line) => line.replace("mount.ocifs: ", "")),
    [
      "the index of 3 layers, 100 MiB, is not there yet; building it",
      "60% of 100 MiB",
      "80% of 100 MiB",
      "the index is built after 7.0 s",
      "",
    ],
  );
});
