import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { OcifsError } from "../../src/base/errors.js";
import type { Log } from "../../src/base/log.js";
import { BackgroundFill, type BackgroundFillOptions, type FillableLayer } from "../../src/daemon/background-fill.js";
import { DemandFirst } from "../../src/daemon/demand-first.js";
import type { FillOutcome } from "../../src/layer/layer-fill.js";
import { Pace } from "../../src/layer/pace.js";
import type { Clock } from "../../src/registry/clock.js";
import { FakeClock } from "../support/fake-clock.js";
import { deferred } from "../support/memory-blob.js";

const done: FillOutcome = { kind: "complete", tarDigest: `sha256:${"0".repeat(64)}`, compared: true };

class FakeLayer implements FillableLayer {
  readonly source: { digest: string };
  complete = false;
  checks = 0;
  kept = 0;
  fills = 0;

  constructor(
    name: string,
    public bytesLeft: number,
    readonly attempt: (number: number, pace: Pace, signal: AbortSignal) => Promise<FillOutcome>,
  ) {
    this.source = { digest: name };
  }

  async fill(pace: Pace, signal: AbortSignal): Promise<FillOutcome> {
    this.fills += 1;
    const outcome = await this.attempt(this.fills, pace, signal);
    this.complete = outcome.kind === "complete";
    if (this.complete) this.bytesLeft = 0;
    return outcome;
  }

  async keepFilled(): Promise<void> {
    this.kept += 1;
  }

  async checkWholeBlob(): Promise<void> {
    this.checks += 1;
  }
}

function setUp(layers: readonly FakeLayer[], options: Partial<BackgroundFillOptions> = {}) {
  const lines: string[] = [];
  const say = (level: string) => (message: string, fields?: Record<string, unknown>) =>
    void lines.push(`${level}: ${message}: ${fields?.digest}`);
  const log: Log = { debug: say("debug"), info: say("info"), warn: say("warn"), error: say("error") };
  const clock = new FakeClock(0);
  const stop = new AbortController();
  const fill = new BackgroundFill(layers, {
    mode: "all",
    bytesPerSecond: undefined,
    log,
    signal: stop.signal,
    clock,
    ...options,
  });
  return { fill, clock, stop, lines };
}

test("layers are filled one after the other, the least bytes to fetch first; a complete one is left alone", async () => {
  let running = 0;
  const order: string[] = [];
  const layer = (name: string, bytes: number) =>
    new FakeLayer(name, bytes, async () => {
      assert.equal(running++, 0, "one at a time");
      order.push(name);
      await setImmediate();
      running--;
      return done;
    });
  const layers = [layer("large", 300), layer("small", 100), layer("complete", 0), layer("medium", 200)];
  if (layers[2]) layers[2].complete = true;
  const { fill, lines } = setUp(layers);
  fill.start();
  await fill[Symbol.asyncDispose]();
  assert.deepEqual(order, ["small", "medium", "large"]);
  for (const each of layers) {
    assert.deepEqual(fill.statusOf(each), { state: "done", reason: null, bytesLeft: 0 });
    assert.equal(each.checks, 0);
  }
  assert.deepEqual(lines.slice(0, 2), [
    "info: filling a layer in the background: small",
    "info: a layer is complete and its digests are right: small",
  ]);
});

test("what may pass is tried again, less and less often, for as long as it takes", async () => {
  const layer = new FakeLayer("a", 1, async (number) => {
    if (number <= 12) throw new OcifsError("network", "connection refused");
    return done;
  });
  const { fill, clock } = setUp([layer]);
  fill.start();
  await fill[Symbol.asyncDispose]();
  assert.equal(layer.fills, 13);
  const waits = clock.sleepsMs;
  assert.deepEqual(waits.slice(0, 4), [750, 1500, 3000, 6000]);
  assert.equal(Math.max(...waits), 45_000);
  assert.equal(fill.statusOf(layer).state, "done");
});

test("a full cache is looked at again in a minute, and other layers go on meanwhile", async () => {
  const full = new FakeLayer("full", 1, async (number) => {
    if (number === 1) throw new OcifsError("no-space", "the cache is full");
    return done;
  });
  const fits = new FakeLayer("fits", 2, async () => {
    assert.deepEqual(fill.statusOf(full), { state: "waiting", reason: "the cache is full", bytesLeft: 1 });
    return done;
  });
  const { fill, clock } = setUp([full, fits]);
  fill.start();
  await fill[Symbol.asyncDispose]();
  assert.deepEqual([full.fills, fits.fills, clock.sleepsMs], [2, 1, [60_000]]);
});

test("wrong digests are not tried again, and said", async () => {
  const error = new OcifsError("mismatch", "its digest is another");
  const refused = new FakeLayer("refused", 1, async () => ({ kind: "refused", of: "blob", error }));
  const broken = new FakeLayer("broken", 2, async () => ({ kind: "broken", error }));
  const { fill, lines } = setUp([refused, broken]);
  fill.start();
  await fill[Symbol.asyncDispose]();
  for (const layer of [refused, broken]) {
    assert.equal(layer.fills, 1);
    const { state, reason } = fill.statusOf(layer);
    assert.deepEqual([state, reason], ["failed", "its digest is another"]);
    assert.ok(lines.includes(`error: a layer cannot be completed: ${layer.source.digest}`));
  }
});

test("a tar that could not be compared with anything is said to be so", async () => {
  const layer = new FakeLayer("a", 1, async () => ({ ...done, compared: false }));
  const { fill } = setUp([layer]);
  fill.start();
  await fill[Symbol.asyncDispose]();
  assert.match(fill.statusOf(layer).reason ?? "", /no diffID to compare/);
});

test("the end of the mount ends the fill, also in the middle of a pause", async () => {
  const started = deferred();
  const layer = new FakeLayer("a", 1, (_number, _pace, signal) => {
    started.resolve();
    return new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  });
  const { fill, stop } = setUp([layer]);
  fill.start();
  await started.promise;
  stop.abort(new OcifsError("aborted", "stopped"));
  await fill[Symbol.asyncDispose]();
  const asleep = deferred();
  const clock = new FakeClock();
  clock.sleep = (_ms, signal) => {
    asleep.resolve();
    return new Promise((_resolve, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
  };
  const failing = new FakeLayer("b", 1, () => Promise.reject(new OcifsError("network", "down")));
  const second = setUp([failing], { clock });
  second.fill.start();
  await asleep.promise;
  second.stop.abort(new OcifsError("aborted", "stopped"));
  await second.fill[Symbol.asyncDispose]();
  assert.equal(failing.fills, 1);
});

test("while a read waits the fill is paused, and says so", async () => {
  const go = deferred();
  const started = deferred();
  const layer = new FakeLayer("a", 1, async (_number, pace) => {
    started.resolve();
    await go.promise;
    await pace.released(new AbortController().signal);
    return done;
  });
  const { fill } = setUp([layer]);
  fill.start();
  await started.promise;
  assert.equal(fill.statusOf(layer).state, "filling");
  {
    using _one = fill.demand();
    using _two = fill.demand();
    assert.deepEqual(fill.statusOf(layer), { state: "paused", reason: "reads go first", bytesLeft: 1 });
  }
  assert.equal(fill.statusOf(layer).state, "filling");
  go.resolve();
  await fill[Symbol.asyncDispose]();
});

test("without a prefetch nothing is filled; whole blobs are checked from the cache", async () => {
  const layers = [1, 2].map((n) => new FakeLayer(`${n}`, n, () => assert.fail("filled")));
  const { fill } = setUp(layers, { mode: "none" });
  fill.start();
  using _demand = fill.demand();
  await fill[Symbol.asyncDispose]();
  for (const layer of layers) {
    assert.equal(layer.checks, 1);
    assert.equal(fill.statusOf(layer).state, "off");
  }
});

/** Sleeps end when the test says so. */
class SteppedClock implements Clock {
  readonly sleeps: { ms: number; end: () => void }[] = [];
  nowMs = () => 0;
  random = () => 0;
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      this.sleeps.push({ ms, end: resolve });
      signal?.addEventListener("abort", () => reject(new OcifsError("aborted", "sleep")), { once: true });
    });
  }
}

test("idle: the fill stands still until no read has waited for a second", async () => {
  const clock = new SteppedClock();
  const pace = new Pace();
  const log: Log = { debug: assert.fail, info: assert.fail, warn: assert.fail, error: assert.fail };
  const first = new DemandFirst(pace, 1000, clock, log);
  assert.equal(pace.held, true, "also after the start");
  clock.sleeps[0]?.end();
  await setImmediate();
  assert.equal(pace.held, false);
  const read = first.demand();
  assert.equal(pace.held, true);
  read[Symbol.dispose]();
  assert.deepEqual([pace.held, clock.sleeps.length, clock.sleeps[1]?.ms], [true, 2, 1000]);
  // Another read: the second begins anew with its end.
  const another = first.demand();
  another[Symbol.dispose]();
  clock.sleeps[1]?.end();
  await setImmediate();
  assert.deepEqual([pace.held, clock.sleeps.length], [true, 3]);
  clock.sleeps[2]?.end();
  await setImmediate();
  assert.equal(pace.held, false);
  const last = first.demand();
  first[Symbol.dispose]();
  last[Symbol.dispose]();
  await setImmediate();
  assert.equal(pace.held, false, "nothing is held once it is closed");
});
