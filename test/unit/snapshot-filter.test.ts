import assert from "node:assert/strict";
import { test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { parseFilters } from "../../src/snapshotter/filter.js";
import type { SnapshotRecord } from "../../src/snapshotter/snapshot-record.js";
import { throwsWith } from "../support/errors.js";

const record: SnapshotRecord = {
  id: "1",
  name: "sha256:aa",
  parent: "sha256:bb",
  kind: "committed",
  labels: { "containerd.io/snapshot.ref": "sha256:aa", "a.b": "x y" },
  createdMs: 0,
  updatedMs: 0,
};
const holds = (...filters: string[]) => parseFilters(filters)(record);

test("filters are read as containerd writes them", () => {
  const cases: [boolean, ...string[]][] = [
    [true],
    [true, ""],
    [true, 'labels."containerd.io/snapshot.ref"==sha256:aa,parent=="sha256:bb"'],
    [false, 'labels."containerd.io/snapshot.ref"==sha256:aa,parent==""'],
    [true, "kind==active", "kind==committed"],
    [false, "kind!=committed"],
    [true, 'labels."a.b"=="x y"'],
    [true, "labels.a.b"],
    [false, "labels.c"],
    [true, "labels.c!=x"],
    [true, 'name~="^sha(256|512):"'],
    [false, "name~=zz"],
    [false, "size"],
  ];
  for (const [wanted, ...filters] of cases) assert.equal(holds(...filters), wanted, filters.join(" or "));
});

test("what is no filter is refused", () => {
  for (const text of ["==", "name==", "name=x", 'name=="x', "name==a,,", "name==a b", 'name~="("', "labels."]) {
    throwsWith(() => holds(text), "usage");
  }
  throwsWith(() => holds(...Array<string>(limits.snapshotFilters + 1).fill("name")), "limit");
});
