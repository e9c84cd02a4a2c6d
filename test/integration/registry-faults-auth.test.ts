import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { inspect } from "node:util";
import { Credential } from "../../src/registry/credential.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { FakeClock } from "../support/fake-clock.js";
import { type FaultyServer, serveJson, startFaultyServer } from "../support/faulty-server.js";
import { ScriptedRegistry } from "../support/scripted-registry.js";

/** Hands out `token-1`, `token-2`, … and accepts at the registry only the ones in `valid`. */
class TokenWorld implements AsyncDisposable {
  readonly valid = new Set<string>();
  /** Added to every token answer. */
  answer: Record<string, unknown> = {};
  accept = true;

  private constructor(
    readonly registry: ScriptedRegistry,
    readonly tokens: FaultyServer,
  ) {}

  static async start(challenge = 'scope="repository:team/app:pull"'): Promise<TokenWorld> {
    const registry = await ScriptedRegistry.start();
    const tokens = await startFaultyServer((_request, response) => {
      const token = `token-${tokens.requests.length}`;
      if (world.accept) world.valid.add(`Bearer ${token}`);
      serveJson(response, 200, { token, ...world.answer });
    });
    const world = new TokenWorld(registry, tokens);
    registry.server.handle((request, response) => {
      if (world.valid.has(request.headers.authorization ?? "")) return registry.serve(request, response);
      const realm = `http://${tokens.host}/token?keep=1`;
      const header = `Bearer realm="${realm}",service="the service",${challenge}`;
      const errors = [{ code: "UNAUTHORIZED", message: `not with ${request.headers.authorization}` }];
      return serveJson(response, 401, { errors }, { "www-authenticate": header });
    });
    return world;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.registry[Symbol.asyncDispose]();
    await this.tokens.stop();
  }
}

describe("tokens", () => {
  test("the token request carries the challenge's service and scope, and keeps the realm's own query", async () => {
    await using world = await TokenWorld.start('scope="repository:team/app:pull aws"');
    const blob = await world.registry.blob();
    await collect(blob.fetchRange(0, 5));
    const url = new URL(world.tokens.requests[0]?.url ?? "", "http://x");
    assert.equal(url.searchParams.get("keep"), "1");
    assert.equal(url.searchParams.get("service"), "the service");
    assert.deepEqual(url.searchParams.getAll("scope"), ["repository:team/app:pull", "aws"]);
    assert.equal(world.tokens.requests[0]?.headers.authorization, undefined);
  });

  test("a challenge without scope means pulling this repository", async () => {
    await using world = await TokenWorld.start("x=y");
    const blob = await world.registry.blob();
    await collect(blob.fetchRange(0, 5));
    assert.match(world.tokens.requests[0]?.url ?? "", /scope=repository%3Ateam%2Fapp%3Apull/);
  });

  test("a token that the registry stops accepting in mid-life is replaced, and the read goes on", async () => {
    await using world = await TokenWorld.start();
    const blob = await world.registry.blob();
    await collect(blob.fetchRange(0, 5));
    world.valid.clear();
    assert.deepEqual(await collect(blob.fetchRange(5, 5)), world.registry.layer.subarray(5, 10));
    assert.equal(world.tokens.requests.length, 2);
    assert.equal(blob.stats().retries, 0);
  });

  test("many reads that meet a 401 at once fetch one token", async () => {
    await using world = await TokenWorld.start();
    const blob = await world.registry.blob();
    await collect(blob.fetchRange(0, 5));
    world.valid.clear();
    await Promise.all([1, 2, 3, 4, 5, 6].map((offset) => collect(blob.fetchRange(offset, 5))));
    assert.equal(world.tokens.requests.length, 2);
  });

  test("a token is renewed before it expires, 60 s after it was got when nothing is said", async () => {
    for (const [answer, lifetimeMs] of [
      [{}, 60_000],
      [{ expires_in: 300 }, 300_000],
      [{ expires_in: 300, issued_at: "2025-12-31T23:58:20Z" }, 200_000],
      [{ expires_in: 300, issued_at: "2020-01-01T00:00:00Z" }, 300_000],
      [{ expires_in: -5 }, 60_000],
      [{ expires_in: "300" }, 60_000],
    ] as const) {
      await using world = await TokenWorld.start();
      world.answer = answer;
      const clock = new FakeClock();
      const blob = await world.registry.blob({ clock });
      await collect(blob.fetchRange(0, 5));
      clock.advance(lifetimeMs - 31_000 - (lifetimeMs < 100_000 ? 10_000 : 0));
      await collect(blob.fetchRange(0, 5));
      assert.equal(world.tokens.requests.length, 1, JSON.stringify(answer));
      clock.advance(40_000);
      const requests = world.registry.server.requests.length;
      await collect(blob.fetchRange(0, 5));
      assert.equal(world.tokens.requests.length, 2, JSON.stringify(answer));
      assert.equal(world.registry.server.requests.length, requests + 1, "no 401 in between");
    }
  });

  test("a registry that accepts no token is unauthorized; what it echoes of the token is cut", async () => {
    await using world = await TokenWorld.start();
    world.accept = false;
    const blob = await world.registry.blob();
    const error = await rejectsWith(collect(blob.fetchRange(0, 5)), "unauthorized");
    assert.match(error.message, /not with Bearer REDACTED/);
    assert.doesNotMatch(inspect(error), /token-\d/);
  });

  test("access_token will do, no token will not, and neither will one that is no header value", async () => {
    await using world = await TokenWorld.start();
    world.answer = { token: "", access_token: "token-1" };
    await collect((await world.registry.blob()).fetchRange(0, 5));
    for (const token of [undefined, "", "a b", "a\r\nx: y", 5]) {
      world.answer = { token, access_token: undefined };
      const blob = await world.registry.blob();
      await rejectsWith(collect(blob.fetchRange(0, 5)), "corrupt");
    }
  });

  test("an answer that is no JSON is corrupt, and is not quoted", async () => {
    await using world = await TokenWorld.start();
    world.tokens.handle((_request, response) => serveJson(response, 200, '{"token": "half-a-sec'));
    const blob = await world.registry.blob();
    const error = await rejectsWith(collect(blob.fetchRange(0, 5)), "corrupt");
    assert.doesNotMatch(inspect(error), /half-a-sec/);
  });

  test("a token server that fails is retried", async () => {
    await using world = await TokenWorld.start();
    let failures = 2;
    world.tokens.handle((_request, response) => {
      if (failures-- > 0) return serveJson(response, 503, {});
      world.valid.add("Bearer late");
      return serveJson(response, 200, { token: "late" });
    });
    const blob = await world.registry.blob();
    assert.deepEqual(await collect(blob.fetchRange(0, 5)), world.registry.layer.subarray(0, 5));
  });

  for (const realm of ["http://169.254.169.254/token", "http://[fe80::1]/token"]) {
    test(`a realm at ${realm} is denied`, async () => {
      await using registry = await ScriptedRegistry.start();
      registry.server.handle((_request, response) =>
        serveJson(response, 401, {}, { "www-authenticate": `Bearer realm="${realm}"` }),
      );
      const credentials = { find: async () => Credential.basic("alice", "s3cret-pw") };
      const blob = await registry.blob({ credentials });
      const error = await rejectsWith(collect(blob.fetchRange(0, 5)), "denied");
      assert.match(error.message, /link-local/);
    });
  }

  test("a caller that gives up does not take the token from the others", async () => {
    await using world = await TokenWorld.start();
    const impatient = new AbortController();
    let release: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => {
      world.tokens.handle((_request, response) => {
        world.valid.add("Bearer shared");
        release = () => serveJson(response, 200, { token: "shared" });
        resolve();
      });
    });
    const blob = await world.registry.blob();
    const first = collect(blob.fetchRange(0, 5, { signal: impatient.signal }));
    const second = collect(blob.fetchRange(5, 5));
    await asked;
    impatient.abort();
    await rejectsWith(first, "aborted");
    release();
    assert.deepEqual(await second, world.registry.layer.subarray(5, 10));
    assert.equal(world.tokens.requests.length, 1);
  });
});

describe("Basic", () => {
  const basic = (password: string) => Credential.basic("alice", password);

  test("a password that stops working in mid-life is looked up again", async () => {
    await using registry = await ScriptedRegistry.start();
    let password = "first-pw";
    registry.server.handle((request, response) => {
      if (request.headers.authorization === basic(password).basicHeader()) return registry.serve(request, response);
      return serveJson(response, 401, {}, { "www-authenticate": 'Negotiate, Basic realm="a, \\"b\\""' });
    });
    const blob = await registry.blob({ credentials: { find: async () => basic(password) } });
    await collect(blob.fetchRange(0, 5));
    password = "second-pw";
    assert.deepEqual(await collect(blob.fetchRange(5, 5)), registry.layer.subarray(5, 10));
    assert.equal(registry.server.requests.length, 4);
  });

  test("a wrong password is tried once; the error holds neither it nor its encoding", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle((_request, response) =>
      serveJson(response, 401, {}, { "www-authenticate": 'Basic realm="x"' }),
    );
    const blob = await registry.blob({ credentials: { find: async () => basic("wr0ng-pw") } });
    const error = await rejectsWith(collect(blob.fetchRange(0, 5)), "unauthorized");
    assert.match(error.message, /does not accept the password of user "alice"/);
    assert.doesNotMatch(inspect(error), /wr0ng-pw|YWxpY2U6/);
    assert.equal(registry.server.requests.length, 2);
  });

  for (const [header, text] of [
    ["Negotiate", /wants a login with negotiate/],
    ['Basic realm="x"', /there is no credential/],
  ] as const) {
    test(`no credential for ${header} is unauthorized`, async () => {
      await using registry = await ScriptedRegistry.start();
      registry.server.handle((_request, response) => serveJson(response, 401, {}, { "www-authenticate": header }));
      const blob = await registry.blob();
      const error = await rejectsWith(collect(blob.fetchRange(0, 5)), "unauthorized");
      assert.match(error.message, text);
    });
  }

  test("a challenge that does not parse is corrupt", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle((_request, response) =>
      serveJson(response, 401, {}, { "www-authenticate": 'Basic realm="x' }),
    );
    const blob = await registry.blob();
    await rejectsWith(collect(blob.fetchRange(0, 5)), "corrupt");
  });
});
