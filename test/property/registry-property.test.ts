import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { OcifsError } from "../../src/base/errors.js";
import { AuthFile } from "../../src/registry/auth-file.js";
import { parseChallenges } from "../../src/registry/challenge.js";
import { cleanText, redactUrl } from "../../src/registry/redact.js";
import { parseRetryAfter } from "../../src/registry/retry.js";

describe("WWW-Authenticate", () => {
  const token = fc.stringMatching(/^[A-Za-z][A-Za-z0-9-]{0,8}$/);
  const parameter = fc.tuple(token, fc.string({ unit: "grapheme-ascii", maxLength: 12 }));
  const challenge = fc.record({ scheme: token, parameters: fc.array(parameter, { minLength: 1, maxLength: 4 }) });

  test("well-formed challenges come back as they were written", () => {
    fc.assert(
      fc.property(fc.array(challenge, { maxLength: 4 }), fc.constantFrom(", ", ",", " , "), (challenges, comma) => {
        const written = challenges.map(({ scheme, parameters }) => {
          const quoted = parameters.map(([name, value]) => `${name}="${value.replace(/["\\]/g, "\\$&")}"`);
          return `${scheme} ${quoted.join(comma)}`;
        });
        const wanted = challenges.map(({ scheme, parameters }) => ({
          scheme: scheme.toLowerCase(),
          // The first of several parameters of one name counts.
          parameters: new Map(parameters.toReversed().map(([name, value]) => [name.toLowerCase(), value] as const)),
        }));
        const found = parseChallenges(written.join(comma));
        assert.deepEqual(
          found.map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]),
          wanted.map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]),
        );
      }),
    );
  });

  test("any text is challenges or an OcifsError", () => {
    const piece = fc.constantFrom("Basic", "Bearer", "realm", "=", '"', "\\", ",", " ", "\t", "abc==", "é", "/");
    const text = fc.oneof(
      fc.string(),
      fc.array(piece, { maxLength: 20 }).map((pieces) => pieces.join("")),
    );
    fc.assert(
      fc.property(text, (header) => {
        try {
          assert.ok(parseChallenges(header).every(({ scheme }) => scheme !== ""));
        } catch (error) {
          assert.ok(error instanceof OcifsError, String(error));
        }
      }),
      { numRuns: 3000 },
    );
  });
});

describe("text from outside", () => {
  test("auth files of any JSON are read or are an OcifsError that does not quote them", () => {
    const secret = "topsecretvalue";
    const entry = fc.record(
      { auth: fc.jsonValue(), identitytoken: fc.jsonValue(), username: fc.constant(secret), password: fc.jsonValue() },
      { requiredKeys: ["username"] },
    );
    const key = fc.constantFrom("r.test", "https://r.test/v1/", "r.test/a", "R.test:80", "");
    const file = fc.record({ auths: fc.oneof(fc.dictionary(key, entry), fc.jsonValue()), credsStore: fc.jsonValue() });
    fc.assert(
      fc.property(file, (document) => {
        try {
          const answers = new AuthFile("/config.json", Buffer.from(JSON.stringify(document))).find("r.test", "a/b");
          assert.ok(answers.length <= 2);
        } catch (error) {
          assert.ok(error instanceof OcifsError, String(error));
          assert.ok(!error.message.includes(secret));
        }
      }),
    );
  });

  test("a URL's secret never shows, whatever the parameter is called", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[A-Za-z-]{1,12}$/), fc.stringMatching(/^[a-z]{20}$/), (name, secret) => {
        fc.pre(!["scope", "service", "last", "ns", "n", "digest", "expires", "se", "sp"].includes(name.toLowerCase()));
        const url = new URL(`https://user:${secret}@store.test/path?a=1&${name}=${secret}&${name}=${secret}#${secret}`);
        assert.ok(!redactUrl(url).includes(secret), redactUrl(url));
      }),
    );
  });

  test("clean text is one bounded line without control characters", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        const clean = cleanText(text, 20);
        assert.ok(clean.length <= 21);
        assert.doesNotMatch(clean, /\p{Cc}/u);
      }),
    );
  });

  test("Retry-After is a time from now on, or nothing", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.nat().map(String),
          fc.date({ noInvalidDate: true }).map((d) => d.toUTCString()),
        ),
        (text) => {
          const ms = parseRetryAfter(text, Date.parse("2026-01-01T00:00:00Z"));
          assert.ok(ms === undefined || (Number.isFinite(ms) && ms >= 0));
        },
      ),
    );
  });
});
