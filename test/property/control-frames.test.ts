import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { ControlServer } from "../../src/daemon/control.js";
import { mutated } from "../support/mutations.js";

/** Sends the bytes in pieces and a last request, and gives the answers up to that one's. */
async function converse(path: string, bytes: Buffer, pieces: number): Promise<string[]> {
  const socket = connect(path);
  await once(socket, "connect");
  const last = "the last";
  let text = "";
  const answered = new Promise<void>((resolve, reject) => {
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      if (text.endsWith("\n") && text.includes(last)) resolve();
    });
    socket.once("error", reject);
    socket.once("close", () => reject(new Error(`the connection ended after ${text}`)));
  });
  const size = Math.max(1, Math.ceil(bytes.length / pieces));
  for (let at = 0; at < bytes.length; at += size) socket.write(bytes.subarray(at, at + size));
  socket.write(`\n${JSON.stringify({ jsonrpc: "2.0", id: last, method: "echo" })}\n`);
  await answered;
  socket.removeAllListeners("close").destroy();
  return text.trim().split("\n");
}

test("any lines on the control socket are answered by JSON-RPC, and never end the server", async () => {
  const directory = await mkdtemp(join(tmpdir(), "ocifs-control-"));
  const path = join(directory, "s");
  try {
    await using _server = await ControlServer.listen(path, {
      echo: (params) => params,
      fail: () => {
        throw new Error("failed on purpose");
      },
    });
    const good = Buffer.from(
      [
        { jsonrpc: "2.0", id: 1, method: "echo", params: { a: [1] } },
        { jsonrpc: "2.0", method: "echo" },
        { jsonrpc: "2.0", id: "x", method: "fail" },
      ]
        .map((request) => `${JSON.stringify(request)}\n`)
        .join(""),
    );
    const frame = fc.record(
      {
        jsonrpc: fc.constantFrom("2.0", "1.0"),
        id: fc.jsonValue(),
        method: fc.oneof(fc.constantFrom("echo", "fail", "__proto__", "constructor"), fc.jsonValue()),
        params: fc.jsonValue(),
      },
      { requiredKeys: [] },
    );
    const lines = fc.array(fc.oneof(frame, fc.jsonValue()), { maxLength: 5 }).map((frames) => {
      return Buffer.from(frames.map((one) => `${JSON.stringify(one)}\n`).join(""));
    });
    await fc.assert(
      fc.asyncProperty(fc.oneof(mutated(good), lines), fc.integer({ min: 1, max: 5 }), async (bytes, pieces) => {
        for (const line of await converse(path, bytes, pieces)) {
          const answer = JSON.parse(line);
          assert.equal(answer.jsonrpc, "2.0");
          assert.ok("id" in answer && "result" in answer !== "error" in answer, line);
          if ("error" in answer) assert.ok([-32700, -32600, -32601, -32000].includes(answer.error.code), line);
        }
      }),
      { numRuns: 300 },
    );
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});
