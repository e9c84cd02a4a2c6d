import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { formatOptionMarkdown } from "../../src/cli/mount-options.js";

/** dist/test/unit/x.js → the repository's root. */
const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

test("the README's table of options is the generated one", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const found = /<!-- options: begin[^\n]*-->\n(.*?)\n<!-- options: end -->/s.exec(readme);
  assert.ok(found, "README.md has no option markers");
  assert.equal(found[1], formatOptionMarkdown(), "paste the output of formatOptionMarkdown() between the markers");
});

test("links between the documents lead somewhere", () => {
  for (const document of ["README.md", "docs/ARCHITECTURE.md", "docs/FORMATS.md", "docs/DEVELOPMENT.md"]) {
    const text = readFileSync(join(root, document), "utf8");
    for (const [, target = ""] of text.matchAll(/\]\(([^)#]+)\)/g)) {
      assert.doesNotThrow(() => readFileSync(join(root, dirname(document), target)), `${document} links to ${target}`);
    }
  }
});
