import assert from "node:assert/strict";
import { test } from "node:test";
import { formatDuration, formatSize } from "../../src/cli/units.js";

test("sizes for people", () => {
  for (const [sizeBytes, text] of [
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1.0 KiB"],
    [1536, "1.5 KiB"],
    [102_297, "99.9 KiB"],
    [102_400, "100 KiB"],
    [1024 * 1023, "1023 KiB"],
    [1024 * 1024 - 1, "1.0 MiB"],
    [27.4 * 2 ** 20, "27.4 MiB"],
    [3 * 2 ** 30, "3.0 GiB"],
    [5000 * 2 ** 40, "5000 TiB"],
  ] as const) {
    assert.equal(formatSize(sizeBytes), text);
  }
});

test("durations for people", () => {
  for (const [durationMs, text] of [
    [0, "0 ms"],
    [999.4, "999 ms"],
    [999.6, "1.0 s"],
    [3210, "3.2 s"],
    [59_949, "59.9 s"],
    [59_960, "1 m 00 s"],
    [125_000, "2 m 05 s"],
    [3_720_000, "1 h 02 m"],
  ] as const) {
    assert.equal(formatDuration(durationMs), text);
  }
});
