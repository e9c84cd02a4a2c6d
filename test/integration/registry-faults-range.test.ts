import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { FakeClock } from "../support/fake-clock.js";
import { type Handler, serveJson } from "../support/faulty-server.js";
import { ScriptedRegistry } from "../support/scripted-registry.js";

/** Declares the whole range and breaks off after `bytes` of it. */
function shortBody(registry: ScriptedRegistry, start: number, end: number, bytes: number): Handler {
  return (_request, response) => {
    response.writeHead(206, {
      "content-length": end - start,
      "content-range": `bytes ${start}-${end - 1}/${registry.layer.length}`,
    });
    response.write(registry.layer.subarray(start, start + bytes), () => response.destroy());
  };
}

describe("answers to a range request", () => {
  test("200 is a stream from 0: the bytes before the range are skipped, and the source says so", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle((_request, response) => {
      response.writeHead(200, { "content-length": registry.layer.length });
      response.end(registry.layer);
    });
    const blob = await registry.blob();
    assert.equal(blob.rangesSupported, true);
    assert.deepEqual(await collect(blob.fetchRange(70_001, 999)), registry.layer.subarray(70_001, 71_000));
    assert.equal(blob.rangesSupported, true, "one answer may be a slip");
    assert.deepEqual(await collect(blob.fetchRange(0, 10)), registry.layer.subarray(0, 10));
    assert.equal(blob.rangesSupported, false);
    assert.equal(registry.server.requests.length, 2);
  });

  test("200 to a fetch of the whole blob says nothing about ranges", async () => {
    await using registry = await ScriptedRegistry.start();
    const blob = await registry.blob();
    assert.deepEqual(await collect(blob.fetchRange(0, blob.sizeBytes)), registry.layer);
    assert.equal(blob.rangesSupported, true);
    assert.deepEqual(registry.ranges, [undefined]);
  });

  for (const length of [1, 199_999, 200_001, undefined]) {
    test(`200 with Content-Length ${length ?? "absent"} is mismatch`, async () => {
      await using registry = await ScriptedRegistry.start();
      registry.server.handle((_request, response) => {
        response.writeHead(200, length === undefined ? {} : { "content-length": length });
        response.write("<");
      });
      const blob = await registry.blob();
      const error = await rejectsWith(collect(blob.fetchRange(10, 10)), "mismatch");
      assert.match(error.message, /the manifest says 200000/);
    });
  }

  const wrongRanges = [
    "bytes 0-9/200000",
    "bytes 11-20/200000",
    "bytes 10-18/200000",
    "bytes 10-19/200001",
    "bytes 10-19/*",
    "bytes */200000",
    "bytes 10-19/200000, bytes 10-19/200000",
    "",
    undefined,
  ];
  for (const range of wrongRanges) {
    test(`206 with Content-Range ${range ?? "absent"} is mismatch`, async () => {
      await using registry = await ScriptedRegistry.start();
      registry.server.handle((_request, response) => {
        response.writeHead(206, { "content-length": 10, ...(range === undefined ? {} : { "content-range": range }) });
        response.end(registry.layer.subarray(10, 20));
      });
      const blob = await registry.blob();
      const error = await rejectsWith(collect(blob.fetchRange(10, 10)), "mismatch");
      assert.match(error.message, /want "bytes 10-19\/200000"/);
      assert.equal(registry.server.requests.length, 1);
    });
  }

  test("206 whose body is longer than its range is mismatch, whatever was delivered is right", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle((_request, response) => {
      response.writeHead(206, { "content-range": `bytes 10-19/${registry.layer.length}` });
      response.end(registry.layer.subarray(10, 30));
    });
    const blob = await registry.blob();
    await rejectsWith(collect(blob.fetchRange(10, 10)), "mismatch");
  });

  for (const [name, headers] of [
    ["Content-Encoding", { "content-encoding": "gzip" }],
    ["a multipart body", { "content-type": "multipart/byteranges; boundary=x" }],
    ["a Content-Length of its own", { "content-length": 9 }],
  ] as const) {
    test(`206 with ${name} is mismatch`, async () => {
      await using registry = await ScriptedRegistry.start();
      registry.server.handle((_request, response) => {
        response.writeHead(206, { "content-range": `bytes 10-19/${registry.layer.length}`, ...headers });
        response.end(registry.layer.subarray(10, 19));
      });
      const blob = await registry.blob();
      await rejectsWith(collect(blob.fetchRange(10, 10)), "mismatch");
    });
  }

  test("204 is mismatch", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle((_request, response) => response.writeHead(204).end());
    const blob = await registry.blob();
    await rejectsWith(collect(blob.fetchRange(10, 10)), "mismatch");
  });

  test("404 is not-found, 403 denied, 416 mismatch that names both sizes; none is retried", async () => {
    await using registry = await ScriptedRegistry.start();
    const blob = await registry.blob();
    const errors = [{ code: "BLOB_UNKNOWN", message: "blob unknown\u001b[31m to registry" }];
    registry.server.handle((_request, response) => serveJson(response, 404, { errors }));
    const missing = await rejectsWith(collect(blob.fetchRange(0, 10)), "not-found");
    assert.match(missing.message, /HTTP 404 \(BLOB_UNKNOWN: blob unknown \[31m to registry\)/);
    registry.server.handle((_request, response) => serveJson(response, 403, "<html>no</html>"));
    const denied = await rejectsWith(collect(blob.fetchRange(0, 10)), "denied");
    assert.match(denied.message, /HTTP 403$/);
    registry.server.handle((_request, response) => response.writeHead(416, { "content-range": "bytes */5" }).end());
    const outside = await rejectsWith(collect(blob.fetchRange(0, 10)), "mismatch");
    assert.match(outside.message, /bytes 0 to 10 of 200000: .*HTTP 416 \(Content-Range bytes \*\/5\)/);
    assert.equal(registry.server.requests.length, 3);
  });
});

describe("transfers that break", () => {
  test("a short body is resumed where it stopped", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.script(shortBody(registry, 100, 150_000, 50_000), shortBody(registry, 50_100, 150_000, 20_000));
    const blob = await registry.blob();
    assert.deepEqual(await collect(blob.fetchRange(100, 149_900)), registry.layer.subarray(100, 150_000));
    assert.deepEqual(registry.ranges, ["bytes=100-149999", "bytes=50100-149999", "bytes=70100-149999"]);
    assert.equal(blob.stats().retries, 2);
  });

  test("a body that ends early without saying its length is resumed too", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.script((_request, response) => {
      response.writeHead(206, { "content-range": `bytes 0-99999/${registry.layer.length}` });
      response.end(registry.layer.subarray(0, 30_000));
    });
    const blob = await registry.blob();
    assert.deepEqual(await collect(blob.fetchRange(0, 100_000)), registry.layer.subarray(0, 100_000));
    assert.deepEqual(registry.ranges, ["bytes=0-99999", "bytes=30000-99999"]);
  });

  test("a whole-blob stream that breaks is resumed by range, and from 0 when the server has none", async () => {
    for (const ranges of [true, false]) {
      await using registry = await ScriptedRegistry.start();
      const whole: Handler = (_request, response) => {
        response.writeHead(200, { "content-length": registry.layer.length });
        response.end(registry.layer);
      };
      registry.script(
        (_request, response) => {
          response.writeHead(200, { "content-length": registry.layer.length });
          response.write(registry.layer.subarray(0, 60_000), () => response.destroy());
        },
        ranges ? registry.serve : whole,
      );
      const blob = await registry.blob();
      assert.deepEqual(await collect(blob.fetchRange(0, blob.sizeBytes)), registry.layer);
      assert.deepEqual(registry.ranges, [undefined, "bytes=60000-199999"]);
      assert.equal(blob.rangesSupported, true, "one answer may be a slip");
    }
  });

  test("a server that breaks off again and again without progress is network, after a bounded number of attempts", async () => {
    await using registry = await ScriptedRegistry.start();
    let position = 0;
    registry.server.handle((request, response) => {
      shortBody(registry, position, 1000, 1)(request, response);
      position += 1;
    });
    const blob = await registry.blob({ clock: new FakeClock() });
    const error = await rejectsWith(collect(blob.fetchRange(0, 1000)), "network");
    assert.match(error.message, /gave up after 12 attempts/);
    assert.equal(registry.server.requests.length, 12);
  });

  test("a connection reset before the answer is retried", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.script((_request, response) => response.socket?.resetAndDestroy());
    const blob = await registry.blob();
    assert.deepEqual(await collect(blob.fetchRange(5, 5)), registry.layer.subarray(5, 10));
  });

  test("500 is retried with growing pauses, then network", async () => {
    await using registry = await ScriptedRegistry.start();
    const clock = new FakeClock();
    registry.script(
      (_request, response) => serveJson(response, 500, {}),
      (_request, response) => serveJson(response, 502, {}),
      (_request, response) => serveJson(response, 503, {}),
    );
    const blob = await registry.blob({ clock, retryBaseDelayMs: 100 });
    assert.deepEqual(await collect(blob.fetchRange(5, 5)), registry.layer.subarray(5, 10));
    assert.deepEqual(clock.sleepsMs, [50, 100, 200]);
    registry.server.handle((_request, response) => serveJson(response, 500, {}));
    const error = await rejectsWith(collect(blob.fetchRange(5, 5)), "network");
    assert.match(error.message, /HTTP 500; gave up after \d+ attempts$/);
  });

  test("429 waits as long as Retry-After asks, in seconds or until a date", async () => {
    await using registry = await ScriptedRegistry.start();
    const clock = new FakeClock();
    const later = new Date(clock.nowMs() + 7000 + 9000).toUTCString();
    registry.script(
      (_request, response) => serveJson(response, 429, {}, { "retry-after": "7" }),
      (_request, response) => serveJson(response, 503, {}, { "retry-after": later }),
    );
    const blob = await registry.blob({ clock });
    assert.deepEqual(await collect(blob.fetchRange(5, 5)), registry.layer.subarray(5, 10));
    assert.deepEqual(clock.sleepsMs, [7000, 9000]);
  });

  test("Retry-After beyond the deadline: one last attempt at the deadline", async () => {
    await using registry = await ScriptedRegistry.start();
    const clock = new FakeClock();
    registry.server.handle((_request, response) => serveJson(response, 429, {}, { "retry-after": "3600" }));
    const blob = await registry.blob({ clock, timeoutMs: 20_000 });
    await rejectsWith(collect(blob.fetchRange(5, 5)), "network");
    assert.deepEqual(clock.sleepsMs, [20_000]);
    assert.equal(registry.server.requests.length, 2);
  });

  test("a server that never answers, and one that stops in the body, are timeouts", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle(() => undefined);
    const silent = await registry.blob({ timeoutMs: 50 });
    await rejectsWith(collect(silent.fetchRange(5, 5)), "timeout");
    registry.server.handle((_request, response) => {
      response.writeHead(206, { "content-length": 5, "content-range": "bytes 5-9/200000" });
      response.write(registry.layer.subarray(5, 7));
    });
    const stuck = await registry.blob({ timeoutMs: 50 });
    await rejectsWith(collect(stuck.fetchRange(5, 5)), "timeout");
  });

  test("timeouts of attempts do not add up, nor does the wait for others that get nothing either", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle(() => undefined);
    const silent = await registry.blob({ timeoutMs: 200, transfers: 1 });
    const [first, second] = [0, 5].map((offset) => rejectsWith(collect(silent.fetchRange(offset, 5)), "timeout"));
    await first;
    // By itself it would have a series of attempts of its own, once it is admitted.
    assert.match((await second)?.message ?? "", /nothing arrived for 200 ms/);
    registry.server.handle(registry.serve);
    assert.deepEqual(await collect(silent.fetchRange(5, 5)), registry.layer.subarray(5, 10));
  });

  test("a server that trickles is a timeout although each piece comes in time", async () => {
    await using registry = await ScriptedRegistry.start();
    const clock = new FakeClock();
    // Each look at the clock costs ten seconds: as if every piece took that long.
    const slow = {
      nowMs: () => {
        clock.advance(10_000);
        return clock.nowMs();
      },
      sleep: () => Promise.reject(new Error("the deadline has passed, nothing sleeps")),
      random: () => 0,
    };
    registry.server.handle((_request, response) => {
      response.writeHead(206, { "content-length": 4000, "content-range": "bytes 0-3999/200000" });
      let sent = 0;
      const next = () => {
        if (sent < 4000) response.write(registry.layer.subarray(sent, ++sent), () => setImmediate(next));
      };
      next();
    });
    const blob = await registry.blob({ clock: slow, timeoutMs: 30_000 });
    await rejectsWith(collect(blob.fetchRange(0, 4000)), "timeout");
  });
});

describe("transfers that are ended", () => {
  test("ending the iteration early ends the transfer and frees the place of the next one", async () => {
    await using registry = await ScriptedRegistry.start();
    const ended = new Promise<void>((resolve) => {
      registry.script((_request, response) => {
        response.on("close", resolve);
        response.writeHead(206, { "content-length": 100_000, "content-range": "bytes 0-99999/200000" });
        response.write(registry.layer.subarray(0, 1000));
      });
    });
    const blob = await registry.blob({ transfers: 1 });
    for await (const chunk of blob.fetchRange(0, 100_000)) {
      assert.deepEqual(Buffer.from(chunk), registry.layer.subarray(0, chunk.length));
      break;
    }
    await ended;
    assert.deepEqual(await collect(blob.fetchRange(7, 7)), registry.layer.subarray(7, 14));
  });

  for (const how of ["signal", "close of the blob", "close of the image"] as const) {
    test(`${how} in the middle of a body is aborted, at once`, async () => {
      await using registry = await ScriptedRegistry.start();
      registry.script((_request, response) => {
        response.writeHead(206, { "content-length": 100_000, "content-range": "bytes 0-99999/200000" });
        response.write(registry.layer.subarray(0, 1000));
      });
      const image = registry.image();
      const blob = await image.openBlob(registry.descriptor);
      const controller = new AbortController();
      const reading = collect(
        (async function* () {
          for await (const chunk of blob.fetchRange(0, 100_000, { signal: controller.signal })) {
            if (how === "signal") controller.abort();
            else if (how === "close of the blob") await blob[Symbol.asyncDispose]();
            else await image[Symbol.asyncDispose]();
            yield chunk;
          }
        })(),
      );
      await rejectsWith(reading, "aborted");
      if (how !== "signal") await rejectsWith(collect(blob.fetchRange(0, 1)), "aborted");
    });
  }

  test("a signal that fired before costs no request", async () => {
    await using registry = await ScriptedRegistry.start();
    const blob = await registry.blob();
    await rejectsWith(collect(blob.fetchRange(0, 1, { signal: AbortSignal.abort() })), "aborted");
    assert.equal(registry.server.requests.length, 0);
  });
});
