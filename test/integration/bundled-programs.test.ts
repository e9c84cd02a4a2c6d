import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { version } from "../../src/base/version.js";
import { repositoryRoot } from "../support/fixtures.js";
import { bundledProgramLine, MountSandbox, programLine, runCommand } from "../support/mounted-image.js";
import { makeSampleLayer } from "../support/sample-layer.js";

const names = ["mount.ocifs", "ocifs"] as const;

test("package.json and scripts/install point at the bundled programs, which start", async () => {
  const { bin } = JSON.parse(await readFile(join(repositoryRoot, "package.json"), "utf8")) as {
    bin: Record<string, string>;
  };
  assert.deepEqual(Object.keys(bin).sort(), [...names]);
  const install = await readFile(join(repositoryRoot, "scripts", "install"), "utf8");
  for (const name of names) {
    const [node, program] = bundledProgramLine(name);
    const path = bin[name] ?? "";
    assert.equal(join(repositoryRoot, path), program);
    assert.ok(install.includes(`write_wrapper "$${name === "ocifs" ? "command" : "helper"}_file" ${path}\n`), path);
    const { status, stdout, stderr } = await runCommand([node, program, "--version"]);
    assert.deepEqual([status, stderr], [0, ""]);
    assert.ok(stdout.endsWith(`${version}\n`), stdout);
  }
});

test("the bundled programs say the same as the modules they were made of", async () => {
  for (const [name, ...args] of [
    ["ocifs", "--help"],
    ["ocifs", "index", "create", "--help"],
    ["ocifs", "nothing-like-that"],
    ["mount.ocifs", "--help"],
    ["mount.ocifs"],
  ] as const) {
    const bundled = await runCommand([...bundledProgramLine(name), ...args]);
    assert.deepEqual(bundled, await runCommand([...programLine(name), ...args]), [name, ...args].join(" "));
  }
});

test("a bundled command finds the addon and the parts it loads late", async (t) => {
  const sandbox = await MountSandbox.open(t);
  const { blobPath, digest, tarindex } = await makeSampleLayer(sandbox.directory);
  const output = join(sandbox.directory, "out");
  const words = ["index", "create", `file:${blobPath}`, "-o", output];
  const { status, stderr } = await runCommand([...bundledProgramLine("ocifs"), ...words]);
  assert.equal(status, 0, stderr);
  const stem = digest.replace(":", "-");
  assert.deepEqual((await readdir(output)).sort(), [`${stem}.json`, `${stem}.tarindex`, `${stem}.zinfo`]);
  assert.deepEqual(await readFile(join(output, `${stem}.tarindex`)), await readFile(tarindex));
});

test("source maps lead from the bundle to the sources", async () => {
  const [, program] = bundledProgramLine("mount.ocifs");
  const map = JSON.parse(await readFile(`${program}.map`, "utf8")) as { sources: string[] };
  assert.ok(map.sources.some((source) => source.endsWith("src/cli/mount-ocifs.ts")));
  assert.ok((await readFile(program, "utf8")).endsWith(`//# sourceMappingURL=mount-ocifs.js.map\n`));
});
