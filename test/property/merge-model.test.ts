import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { listMerged, mergeTars } from "../support/merge.js";
import { layersOf, layerWishes } from "../support/random-layers.js";
import { buildTar } from "../support/tar-builder.js";

test("merging any layers gives what applying their entries one by one gives", async () => {
  await fc.assert(
    fc.asyncProperty(layerWishes(6, 8), async (wishes) => {
      const { layers, model } = layersOf(wishes);
      assert.deepEqual(await listMerged(layers.map((items) => buildTar(items))), model.list());
    }),
    { numRuns: 400 },
  );
});

test("an image merged in two runs is the same bytes", () => {
  fc.assert(
    fc.property(layerWishes(4, 6), (wishes) => {
      const tars = layersOf(wishes).layers.map((items) => buildTar(items));
      assert.ok(mergeTars(tars).index.equals(mergeTars(tars).index));
    }),
    { numRuns: 30 },
  );
});
