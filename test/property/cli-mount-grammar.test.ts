import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { isOcifsError } from "../../src/base/errors.js";
import { parseMountCommand } from "../../src/cli/mount-grammar.js";
import {
  defaultMountOptions,
  drivers,
  logLevels,
  type MountOptions,
  optionTable,
} from "../../src/cli/mount-options.js";
import { noMountFlags } from "../../src/cli/standard-words.js";
import type { MountFlags } from "../../src/drivers/driver.js";

/** Text that can be a value: not empty; anything else, also commas, since it is printed with its protection. */
const text = fc.string({ minLength: 1, unit: "grapheme" });
const hex = fc.stringMatching(/^[0-9a-f]{64}$/);
const listable = (value: string): boolean => !value.includes('"') && !value.endsWith("\\") && !value.includes("\\,");

/** One option's word and what it must become. */
type Choice = { key: string; value?: string; options: Partial<MountOptions> };

const choice = <T>(
  key: string,
  values: fc.Arbitrary<T>,
  print: (value: T) => string,
  options: (value: T) => Partial<MountOptions>,
) =>
  fc.option(
    values.map((value): Choice => ({ key, value: print(value), options: options(value) })),
    { nil: undefined },
  );

const choices = fc
  .tuple(
    fc.option(
      fc.oneof(
        fc.nat(1023).map((layer): Choice => ({ key: "oci.layer", value: String(layer), options: { layer } })),
        hex.map((digits): Choice => ({ key: "oci.blob", value: digits, options: { blob: `sha256:${digits}` } })),
      ),
      { nil: undefined },
    ),
    choice("oci.tarindex", text, String, (tarindex) => ({ tarindex })),
    choice("oci.platform", fc.stringMatching(/^[a-z0-9]{1,8}\/[a-z0-9]{1,8}(\/v[0-9])?$/), String, (platform) => ({
      platform,
    })),
    choice("oci.insecure", fc.boolean(), String, (insecure) => ({ insecure })),
    choice("driver", fc.constantFrom(...drivers), String, (driver) => ({ driver })),
    choice("cachedir", text, String, (cacheDir) => ({ cacheDir })),
    choice(
      "cachesize",
      fc.integer({ min: 1, max: 2 ** 20 }),
      (size) => `${size}G`,
      (size) => ({ cacheSizeBytes: size * 2 ** 30 }),
    ),
    choice(
      "timeout",
      fc.integer({ min: 1, max: 86_400 }),
      (seconds) => `${seconds}s`,
      (seconds) => ({ timeoutMs: seconds * 1000 }),
    ),
    choice("verify", fc.constantFrom("span" as const, "blob" as const, "none" as const), String, (verify) => ({
      verify,
    })),
    choice(
      "log",
      fc.tuple(fc.constantFrom(...logLevels), text),
      ([level, path]) => `${level}:${path}`,
      ([level, path]) => ({ log: { level, path } }),
    ),
  )
  .map((list) => list.filter((entry) => entry !== undefined));

const operand = fc.string({ minLength: 1 }).filter((word) => !word.startsWith("-") && !word.startsWith("oci."));

test("what is printed is what is parsed, wherever it stands", () => {
  fc.assert(
    fc.property(
      choices,
      fc.array(fc.constantFrom<keyof MountFlags>("nosuid", "nodev", "noexec", "noatime", "nosymfollow"), {
        maxLength: 3,
      }),
      operand,
      operand,
      fc.infiniteStream(fc.nat(2)),
      (entries, flags, source, mountpoint, stream) => {
        const next = (): number => stream.next().value ?? 0;
        const pieces: string[][] = [[source], [mountpoint]];
        const lists: string[] = [];
        for (const { key, value = "" } of entries) {
          // An option of ours may be an argument of its own if its key says so, a quoted word, or a word with escaped commas.
          const form = next();
          if ((form === 0 || !listable(value)) && key.startsWith("oci."))
            pieces.splice(next() % pieces.length, 0, [`${key}=${value}`]);
          else if (form === 1 && listable(value)) lists.push(`${key}="${value}"`);
          else if (listable(value)) lists.push(`${key}=${value.replaceAll(",", "\\,")}`);
          else entries = entries.filter((entry) => entry.key !== key);
        }
        lists.push(...flags);
        const half = lists.length >> 1;
        for (const part of [lists.slice(0, half), lists.slice(half)]) {
          if (part.length > 0) pieces.splice(next() % (pieces.length + 1), 0, ["-o", part.join(",")]);
        }
        const command = parseMountCommand(pieces.flat());
        assert.deepEqual(command, {
          kind: "mount",
          request: {
            source,
            mountpoint,
            options: Object.assign({}, defaultMountOptions, ...entries.map((entry) => entry.options)),
            flags: { ...noMountFlags, ...Object.fromEntries(flags.map((flag) => [flag, true])) },
            securityOptions: [],
            remount: false,
            fake: false,
            verbose: false,
            toleratedWords: [],
          },
        });
      },
    ),
    { numRuns: 2000 },
  );
});

const fragments = [
  ...optionTable.map(({ key }) => key),
  ...'rw ro remount user x-a context= = , " \\ -o -t -N -s -f -w -- --help oci. oci.layer=0 0 1 sha256: / linux/arm64 \u0000 ocifs 30s'.split(
    " ",
  ),
];

test("any command line is parsed or refused with an OcifsError", () => {
  const word = fc.oneof(
    fc.string(),
    fc.array(fc.constantFrom(...fragments), { maxLength: 6 }).map((parts) => parts.join("")),
    fc.array(fc.constantFrom(...fragments), { maxLength: 6 }).map((parts) => parts.join(",")),
  );
  let parsed = 0;
  fc.assert(
    fc.property(
      fc.array(word, { maxLength: 8 }),
      fc.constantFrom("mount8" as const, "user" as const),
      (argv, caller) => {
        try {
          parseMountCommand(argv, caller);
          parsed += 1;
        } catch (error) {
          assert.ok(isOcifsError(error, "usage") || isOcifsError(error, "unsupported"), String(error));
        }
      },
    ),
    { numRuns: 20_000 },
  );
  assert.ok(parsed > 0, "some of them are right");
});
