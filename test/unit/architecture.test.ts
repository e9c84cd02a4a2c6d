import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix, sep } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** dist/test/unit/x.js → the repository's root. */
const sourceRoot = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..", "src");

/** From top to bottom; parts on one line may use each other as long as no circle arises. Imports point down. */
const order = [
  ["cli"],
  ["bundle", "snapshotter"],
  ["daemon", "proxy", "serve"],
  ["content", "drivers", "image"],
  ["index", "layer", "splitfd"],
  ["gzip", "tar", "erofs", "blob", "cache"],
  ["registry"],
  ["oci"],
  ["native"],
  ["base"],
];
const rankOf = new Map(order.flatMap((parts, at) => parts.map((part) => [part, order.length - at] as const)));

/** Files that hold an interface and nothing else: what is below implements it, so its type may be imported from anywhere. */
const seams = new Set(["layer/layer-device.ts", "blob/blob-source.ts"]);

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

const files = readdirSync(sourceRoot, { recursive: true, encoding: "utf8" })
  .map((file) => file.split(sep).join("/"))
  .filter((file) => file.endsWith(".ts"));

/** Imports and re-exports of one file by relative path, static and dynamic. */
function importsOf(from: string): Import[] {
  const text = readFileSync(join(sourceRoot, from), "utf8");
  const found: Import[] = [];
  for (const match of text.matchAll(/^(import|export)\s+(type\s)?[^;"]*?from\s+"(\.[^"]+)"/gm)) {
    found.push({ from, to: resolve(from, match[3] ?? ""), typeOnly: match[2] !== undefined });
  }
  for (const match of text.matchAll(/\bimport\s*\(?\s*"(\.[^"]+)"/g)) {
    found.push({ from, to: resolve(from, match[1] ?? ""), typeOnly: false });
  }
  return found;
}

function resolve(from: string, specifier: string): string {
  return posix.join(posix.dirname(from), specifier).replace(/\.js$/, ".ts");
}

const partOf = (file: string): string => file.slice(0, file.indexOf("/"));
const imports = files.flatMap(importsOf);
const throughSeam = ({ to, typeOnly }: Import): boolean => typeOnly && seams.has(to);

test("every directory of src has its place in the order", () => {
  assert.ok(files.length > 0);
  assert.deepEqual(
    [...new Set(files.map(partOf))].filter((part) => !rankOf.has(part)),
    [],
  );
});

test("every relative import names a file", () => {
  assert.ok(imports.length > 0);
  const known = new Set(files);
  assert.deepEqual(
    imports.filter(({ to }) => !known.has(to)),
    [],
  );
});

test("imports point down", () => {
  const upward = imports.filter(
    (each) => !throughSeam(each) && (rankOf.get(partOf(each.to)) ?? 0) > (rankOf.get(partOf(each.from)) ?? 0),
  );
  assert.deepEqual(upward, []);
});

test("parts do not import each other in a circle", () => {
  const below = new Map<string, Set<string>>();
  for (const each of imports) {
    const [from, to] = [partOf(each.from), partOf(each.to)];
    if (from === to || throughSeam(each)) continue;
    below.set(from, (below.get(from) ?? new Set()).add(to));
  }
  const finished = new Set<string>();
  const visit = (part: string, path: readonly string[]): void => {
    assert.ok(!path.includes(part), `circle: ${[...path, part].join(" → ")}`);
    if (finished.has(part)) return;
    for (const next of below.get(part) ?? []) visit(next, [...path, part]);
    finished.add(part);
  };
  for (const part of below.keys()) visit(part, []);
});

test("the addon is imported by its own directory only", () => {
  assert.deepEqual(
    imports.filter(({ from, to }) => to === "native/addon.ts" && partOf(from) !== "native"),
    [],
  );
});

test("a seam holds types only", () => {
  for (const seam of seams) {
    const exported = readFileSync(join(sourceRoot, seam), "utf8").match(/^export .*/gm) ?? [];
    assert.ok(exported.length > 0, seam);
    for (const line of exported) assert.match(line, /^export (interface|type) /, seam);
  }
});
