import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { promisify } from "node:util";
import { AddressPolicy, localKindOf, type Resolver } from "../../src/registry/address-policy.js";
import { PriorityGate } from "../../src/registry/priority-gate.js";
import { cleanText, redactUrl } from "../../src/registry/redact.js";
import { codeOfStatus, fromTransport, RegistryError } from "../../src/registry/registry-error.js";
import { parseRetryAfter, RetryBudget, withRetry } from "../../src/registry/retry.js";
import { expiryOf } from "../../src/registry/signed-url.js";
import { TransferStats } from "../../src/registry/transfer-stats.js";
import { rejectsWith } from "../support/errors.js";
import { FakeClock } from "../support/fake-clock.js";

describe("local addresses", () => {
  for (const [address, kind] of [
    ["127.0.0.1", "loopback"],
    ["127.9.9.9", "loopback"],
    ["0.0.0.0", "loopback"],
    ["::1", "loopback"],
    ["::", "loopback"],
    ["::ffff:127.0.0.1", "loopback"],
    ["169.254.169.254", "link-local"],
    ["::ffff:169.254.169.254", "link-local"],
    ["::ffff:a9fe:a9fe", "link-local"],
    ["fe80::1", "link-local"],
    ["fe80::1%eth0", "link-local"],
    ["::127.0.0.1", "loopback"],
    ["64:ff9b::127.0.0.1", "loopback"],
    ["64:ff9b::a9fe:a9fe", "link-local"],
    ["64:ff9b:1::169.254.169.254", "link-local"],
    ["2002:7f00:1::", "loopback"],
    ["2002:a9fe:a9fe::1", "link-local"],
    ["fd00:ec2::254", "link-local"],
    ["fd00:ec2::253", undefined],
    ["64:ff9b::8.8.8.8", undefined],
    ["2002:808:808::", undefined],
    ["10.0.0.1", undefined],
    ["128.0.0.1", undefined],
    ["2001:db8::1", undefined],
    ["registry.test", undefined],
  ] as const) {
    test(`${address} is ${kind ?? "neither"}`, () => {
      assert.equal(localKindOf(address), kind);
    });
  }
});

describe("where a registry may send us", () => {
  const names: Record<string, string> = {
    "registry.test": "192.0.2.1",
    "inside.test": "127.0.0.1",
    "store.test": "192.0.2.2",
    "metadata.test": "169.254.169.254",
    "mapped.test": "::ffff:127.0.0.1",
  };
  const resolver: Resolver = async (hostname) => {
    const address = names[hostname];
    assert.ok(address !== undefined, `unexpected lookup of ${hostname}`);
    return [{ address, family: address.includes(":") ? 6 : 4 }];
  };
  const policyOf = (registry: string) => new AddressPolicy(new URL(registry), resolver);
  const allows = async (registry: string, target: string) => {
    const policy = policyOf(registry);
    const { hostname } = new URL(target);
    await policy.checkLiteral(new URL(target), "fetch");
    if (/[a-z]/.test(hostname) && !hostname.startsWith("[")) await promisify(policy.lookup)(hostname, { all: true });
  };

  for (const [registry, target] of [
    ["https://registry.test", "https://store.test/x"],
    ["https://registry.test", "https://192.0.2.9/x"],
    ["https://inside.test", "http://127.0.0.1:99/x"],
    ["https://inside.test", "http://[::1]:99/x"],
    ["https://inside.test", "http://mapped.test/x"],
    ["http://127.0.0.1:5000", "http://127.0.0.1:99/x"],
    ["http://127.0.0.1:5000", "http://inside.test/x"],
    ["http://[::1]:5000", "http://127.0.0.1/x"],
    ["http://169.254.1.1", "http://169.254.1.2/x"],
  ] as const) {
    test(`${registry} may send to ${target}`, async () => {
      await assert.doesNotReject(allows(registry, target));
    });
  }

  for (const [registry, target] of [
    ["https://registry.test", "http://127.0.0.1/x"],
    ["https://registry.test", "http://2130706433/x"],
    ["https://registry.test", "http://0x7f.1/x"],
    ["https://registry.test", "http://0177.0.0.1/x"],
    ["https://registry.test", "http://017700000001/x"],
    ["https://registry.test", "http://0xa9fea9fe/x"],
    ["https://registry.test", "http://2852039166/x"],
    ["https://registry.test", "http://0251.0376.0251.0376/x"],
    ["https://registry.test", "http://127.1/x"],
    ["https://registry.test", "http://[::ffff:7f00:1]/x"],
    ["https://registry.test", "http://[0:0:0:0:0:ffff:169.254.169.254]/x"],
    ["https://registry.test", "http://[64:ff9b::7f00:1]/x"],
    ["https://registry.test", "http://\uff11\uff12\uff17.0.0.1/x"],
    ["https://registry.test", "http://0.0.0.0/x"],
    ["https://registry.test", "http://[::1]/x"],
    ["https://registry.test", "http://[::ffff:127.0.0.1]/x"],
    ["https://registry.test", "http://inside.test/x"],
    ["https://registry.test", "http://mapped.test/x"],
    ["https://registry.test", "http://metadata.test/x"],
    ["https://inside.test", "http://169.254.169.254/x"],
    ["http://127.0.0.1:5000", "http://metadata.test/x"],
    ["http://169.254.1.1", "http://127.0.0.1/x"],
  ] as const) {
    test(`${registry} may not send to ${target}`, async () => {
      const error = await rejectsWith(allows(registry, target), "denied");
      assert.match(error.message, /refused$/);
    });
  }

  test("a name that has one forbidden address among others is refused", async () => {
    const policy = new AddressPolicy(new URL("https://registry.test"), async (hostname) =>
      (hostname === "registry.test" ? ["192.0.2.1"] : ["192.0.2.2", "127.0.0.1"]).map((address) => ({
        address,
        family: 4,
      })),
    );
    await rejectsWith(promisify(policy.lookup)("both.test", { all: true }), "denied");
  });

  test("a registry's name that comes to mean this machine later does not open it", async () => {
    let address = "192.0.2.1";
    const policy = new AddressPolicy(new URL("https://registry.test"), async () => [{ address, family: 4 }]);
    await promisify(policy.registryLookup)("registry.test", { all: true });
    address = "127.0.0.1";
    // A connection to where the user said is his own affair; another port by way of a redirect is not.
    await promisify(policy.registryLookup)("registry.test", { all: true });
    await rejectsWith(promisify(policy.lookup)("registry.test", { all: true }), "denied");
    await rejectsWith(policy.checkLiteral(new URL("http://127.0.0.1/x"), "fetch"), "denied");
  });

  test("the lookup answers in either form, and by family", async () => {
    const { lookup } = policyOf("https://registry.test");
    await new Promise<void>((resolve) => {
      lookup("store.test", {}, (error, address, family) => {
        assert.deepEqual([error, address, family], [null, "192.0.2.2", 4]);
        resolve();
      });
    });
    await new Promise<void>((resolve) => {
      lookup("store.test", { family: 6 }, (error) => {
        assert.equal(error?.code, "ENOTFOUND");
        resolve();
      });
    });
  });
});

describe("the gate", () => {
  const signal = new AbortController().signal;

  test("waiting demand goes first, and prefetch leaves places to demand", async () => {
    const gate = new PriorityGate(3, 1);
    const order: string[] = [];
    const enter = async (name: string, priority: "demand" | "prefetch") => {
      const place = await gate.enter(priority, signal);
      order.push(name);
      return place;
    };
    const first = await enter("p1", "prefetch");
    const second = await enter("p2", "prefetch");
    const third = enter("p3", "prefetch");
    const fourth = await enter("d1", "demand");
    const fifth = enter("d2", "demand");
    assert.deepEqual(order, ["p1", "p2", "d1"]);
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    const fifthPlace = await fifth;
    assert.deepEqual(order, ["p1", "p2", "d1", "d2"]);
    second[Symbol.dispose]();
    fourth[Symbol.dispose]();
    await third;
    assert.deepEqual(order, ["p1", "p2", "d1", "d2", "p3"]);
    fifthPlace[Symbol.dispose]();
  });

  test("who gives up waiting leaves the line", async () => {
    const gate = new PriorityGate(1, 0);
    const held = await gate.enter("demand", signal);
    const controller = new AbortController();
    const quitter = gate.enter("demand", controller.signal);
    const patient = gate.enter("demand", signal);
    controller.abort();
    await rejectsWith(quitter, "aborted");
    await rejectsWith(gate.enter("demand", AbortSignal.abort()), "aborted");
    held[Symbol.dispose]();
    (await patient)[Symbol.dispose]();
    (await gate.enter("prefetch", signal))[Symbol.dispose]();
  });
});

describe("retries", () => {
  const policy = { timeoutMs: 10_000, baseDelayMs: 100, maxDelayMs: 1000 };
  const passing = new RegistryError("network", "fetch: reset", { retryable: true });

  test("pauses double up to the largest, until the deadline", async () => {
    const clock = new FakeClock(0, 1);
    let attempts = 0;
    const failing = withRetry(
      new RetryBudget(policy, clock),
      "fetch",
      undefined,
      () => undefined,
      async () => {
        attempts += 1;
        throw passing;
      },
    );
    const error = await rejectsWith(failing, "network");
    assert.match(error.message, /^fetch: reset; gave up after 12 attempts$/);
    assert.deepEqual(clock.sleepsMs, [100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000, 1000, 1000]);
    assert.equal(attempts, 12);
  });

  test("what cannot pass is thrown as it is, at once", async () => {
    const clock = new FakeClock();
    const final = new RegistryError("denied", "no");
    const failing = withRetry(
      new RetryBudget(policy, clock),
      "fetch",
      undefined,
      () => undefined,
      () => Promise.reject(final),
    );
    await assert.rejects(failing, final);
    assert.deepEqual(clock.sleepsMs, []);
  });

  test("progress starts the count and the deadline anew", async () => {
    const clock = new FakeClock(0, 1);
    const budget = new RetryBudget({ ...policy, timeoutMs: 250 }, clock);
    for (let round = 0; round < 30; round++) {
      await budget.wait(passing);
      clock.advance(100);
      budget.progress();
    }
    assert.ok(clock.sleepsMs.every((ms) => ms === 100));
    await budget.wait(passing);
    await budget.wait(passing);
    await rejectsWith(budget.wait(passing), "network");
  });

  const nowMs = Date.parse("2026-01-01T00:00:00Z");
  for (const [header, ms] of [
    ["0", 0],
    ["120", 120_000],
    [" 5 ", 5000],
    ["Thu, 01 Jan 2026 00:01:00 GMT", 60_000],
    ["Wed, 31 Dec 2025 00:00:00 GMT", 0],
    ["-1", undefined],
    ["1.5", undefined],
    ["soon", undefined],
    ["", undefined],
    ["99999999999", undefined],
  ] as const) {
    test(`Retry-After ${JSON.stringify(header)} is ${ms ?? "nothing"}`, () => {
      assert.equal(parseRetryAfter(header, nowMs), ms);
    });
  }
});

describe("failures", () => {
  const signal = new AbortController().signal;
  const withCode = (code: string) => Object.assign(new Error("it broke"), { code });

  for (const [code, ocifsCode, retryable] of [
    ["ECONNREFUSED", "network", true],
    ["ECONNRESET", "network", true],
    ["EAI_AGAIN", "network", true],
    ["ENOTFOUND", "network", false],
    ["UND_ERR_SOCKET", "network", true],
    ["UND_ERR_CONNECT_TIMEOUT", "timeout", true],
    ["UND_ERR_HEADERS_TIMEOUT", "timeout", true],
    ["UND_ERR_BODY_TIMEOUT", "timeout", true],
    ["ETIMEDOUT", "timeout", true],
    ["DEPTH_ZERO_SELF_SIGNED_CERT", "network", false],
    ["CERT_HAS_EXPIRED", "network", false],
    ["ERR_TLS_CERT_ALTNAME_INVALID", "network", false],
    ["ERR_SSL_WRONG_VERSION_NUMBER", "network", false],
  ] as const) {
    test(`${code} is ${ocifsCode}, ${retryable ? "" : "not "}tried again`, () => {
      for (const thrown of [withCode(code), new AggregateError([withCode(code)])]) {
        const error = fromTransport(thrown, "fetch", signal);
        assert.equal(error.code, ocifsCode);
        assert.equal(error instanceof RegistryError && error.retryable, retryable);
      }
    });
  }

  test("after an abort everything is aborted", () => {
    assert.equal(fromTransport(withCode("ECONNRESET"), "fetch", AbortSignal.abort()).code, "aborted");
  });

  for (const [status, code, retryable] of [
    [401, "unauthorized", false],
    [403, "denied", false],
    [404, "not-found", false],
    [410, "not-found", false],
    [416, "mismatch", false],
    [408, "network", true],
    [429, "network", true],
    [500, "network", true],
    [503, "network", true],
    [501, "unsupported", false],
    [400, "denied", false],
    [451, "denied", false],
    [304, "unsupported", false],
  ] as const) {
    test(`HTTP ${status} is ${code}`, () => {
      assert.deepEqual(codeOfStatus(status), { code, retryable });
    });
  }
});

describe("signed URLs", () => {
  for (const [query, expiry] of [
    ["X-Amz-Date=20260101T000000Z&X-Amz-Expires=900", "2026-01-01T00:15:00Z"],
    ["X-Goog-Date=20260101T000000Z&X-Goog-Expires=60", "2026-01-01T00:01:00Z"],
    ["Expires=1767225600&Signature=x", "2026-01-01T00:00:00Z"],
    ["se=2026-01-01T00%3A00%3A00Z&sig=x", "2026-01-01T00:00:00Z"],
    ["X-Amz-Date=20261341T000000Z&X-Amz-Expires=900", undefined],
    ["X-Amz-Date=20260101T000000Z", undefined],
    ["Expires=never", undefined],
    ["", undefined],
  ] as const) {
    test(`${query || "no query"} ${expiry ?? "does not say"}`, () => {
      const expected = expiry === undefined ? undefined : Date.parse(expiry);
      assert.equal(expiryOf(new URL(`https://store.test/x?${query}`)), expected);
    });
  }
});

describe("redaction", () => {
  for (const [url, shown] of [
    ["https://u:p@r.test/v2/#f", "https://r.test/v2/"],
    [
      "https://a.test/token?service=s&scope=repository%3Aa%3Apull",
      "https://a.test/token?service=s&scope=repository%3Aa%3Apull",
    ],
    ["https://a.test/x?sig=1&sig=2&Signature=3", "https://a.test/x?sig=REDACTED&Signature=REDACTED"],
    [
      "https://a.test/x?X-Amz-Expires=60&X-Amz-Credential=k",
      "https://a.test/x?X-Amz-Expires=60&X-Amz-Credential=REDACTED",
    ],
    ["not a url?secret", "(malformed URL)"],
  ] as const) {
    test(`${url}`, () => {
      assert.equal(redactUrl(url), shown);
    });
  }

  test("server text becomes one line without secrets", () => {
    assert.equal(cleanText("a\r\n\u001b[2Jb tok123 c\u2028d\u202e", 100, ["tok123", ""]), "a [2Jb REDACTED c d");
    assert.equal(cleanText("abcdef", 3), "abc…");
  });
});

describe("transfer counts", () => {
  test("a blob's counts add to its client's", () => {
    const client = new TransferStats();
    const blob = new TransferStats(client);
    blob.add("bytes", 10);
    blob.add("requests");
    client.add("requests");
    assert.deepEqual(blob.counts(), { requests: 1, bytes: 10, retries: 0 });
    assert.deepEqual(client.counts(), { requests: 2, bytes: 10, retries: 0 });
  });
});
