import assert from "node:assert/strict";
import { test } from "node:test";
import {
  defaultMountOptions,
  formatOptionMarkdown,
  type OptionValues,
  optionTable,
} from "../../src/cli/mount-options.js";
import { splitOptionWords } from "../../src/cli/option-words.js";

test("keys are unique, and what a row names beside itself exists", () => {
  const keys = optionTable.map(({ key }) => key);
  assert.equal(new Set(keys).size, keys.length);
  for (const { key, excludes = [], needs = [] } of optionTable) {
    for (const other of [...excludes, ...needs]) assert.ok(keys.includes(other), `${key} names ${other}`);
  }
});

test("exclusion is mutual", () => {
  for (const { key, excludes = [] } of optionTable) {
    for (const other of excludes) {
      const rival = optionTable.find((entry) => entry.key === other);
      assert.ok(rival?.excludes?.includes(key), `${other} does not exclude ${key}`);
    }
  }
});

test("the default that help prints is the default that is used", () => {
  const printed: [key: string, field: keyof typeof defaultMountOptions][] = [
    ["driver", "driver"],
    ["onerror", "onError"],
    ["timeout", "timeoutMs"],
    ["verify", "verify"],
    ["prefetch", "prefetch"],
    ["log", "log"],
  ];
  for (const [key, field] of printed) {
    const row = optionTable.find((entry) => entry.key === key);
    const values: OptionValues = {};
    row?.assign(values, row.defaultText);
    assert.deepEqual(values[field], defaultMountOptions[field], key);
  }
  for (const row of optionTable.filter(({ placeholder }) => placeholder === undefined)) {
    const values: OptionValues = {};
    row.assign(values, "false");
    assert.equal(row.defaultText, "off", row.key);
    assert.deepEqual({ ...defaultMountOptions, ...values }, defaultMountOptions, row.key);
  }
});

test("the Markdown table has one row an option and no stray column", () => {
  const lines = formatOptionMarkdown().split("\n");
  assert.equal(lines.length, optionTable.length + 2);
  for (const line of lines) assert.equal(line.replaceAll("\\|", "").split("|").length, 5, line);
});

test("option lists are cut at commas outside quotes and not behind a backslash", () => {
  const cut = (list: string): [string, string | undefined][] =>
    splitOptionWords(list).map(({ key, value }) => [key, value]);
  assert.deepEqual(cut(""), []);
  assert.deepEqual(cut(",,"), []);
  assert.deepEqual(cut("ro"), [["ro", undefined]]);
  assert.deepEqual(cut("a=,b==,=c"), [
    ["a", ""],
    ["b", "="],
    ["", "c"],
  ]);
  assert.deepEqual(cut('a="x,y",b'), [
    ["a", "x,y"],
    ["b", undefined],
  ]);
  assert.deepEqual(cut('a=x"y,z"w,b'), [
    ["a", 'x"y,z"w'],
    ["b", undefined],
  ]);
  assert.deepEqual(cut("a=x\\,y,b"), [
    ["a", "x,y"],
    ["b", undefined],
  ]);
  assert.deepEqual(cut('a="",b=c\\d'), [
    ["a", ""],
    ["b", "c\\d"],
  ]);
  assert.deepEqual(
    splitOptionWords('a="x,y"').map(({ raw }) => raw),
    ['a="x,y"'],
  );
});
