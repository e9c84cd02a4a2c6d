import assert from "node:assert/strict";
import { test } from "node:test";
import { isOcifsError } from "../../src/base/errors.js";
import { mountExitCode, mountExitCodes } from "../../src/cli/exit-codes.js";
import { parseMountCommand } from "../../src/cli/mount-grammar.js";
import { refuseUnsupportedOptions } from "../../src/cli/unsupported-options.js";

function refuse(words: string): void {
  const command = parseMountCommand(["registry.example/app:1", "/mnt", "-o", words]);
  assert.equal(command.kind, "mount");
  if (command.kind === "mount") refuseUnsupportedOptions(command.request.options);
}

test("options without an effect in this version are refused as a mount failure that names them", () => {
  for (const [words, says] of [["cachesize=10G", /^cachesize: .*leave cachesize= out/]] as const) {
    assert.throws(
      () => refuse(words),
      (error) =>
        isOcifsError(error, "unsupported") &&
        says.test(error.message) &&
        mountExitCode(error) === mountExitCodes.failure,
      words,
    );
  }
});

test("what asks for nothing beyond this version is let through", () => {
  assert.doesNotThrow(() => refuse("ro"));
  for (const words of ["prefetch=none", "prefetch=idle", "prefetch=all,prefetchrate=1M", "prefetchrate=1M"]) {
    assert.doesNotThrow(() => refuse(words), words);
  }
});
