import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { get, type IncomingMessage, type RequestOptions } from "node:http";
import type { TestContext } from "node:test";
import { silentLog } from "../../src/base/log.js";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { ImageStore } from "../../src/cache/image-store.js";
import { openProxy, type ProxyOptions } from "../../src/proxy/proxy.js";
import { anonymous } from "../../src/registry/credential.js";
import { tempDirectory } from "./temp.js";

export type TestProxyOptions = Partial<Pick<ProxyOptions, "forwardsLogins" | "tls" | "client" | "port">> & {
  readonly cacheDir?: string;
  readonly cacheLimitBytes?: number;
};

export interface TestProxy {
  /** `http://127.0.0.1:PORT`. */
  readonly url: string;
  readonly host: string;
  readonly cacheDir: string;
  /** The same that runs at the test's end. */
  stop(drainMs?: number): Promise<void>;
}

/** A proxy in this process, in front of registries that speak plain HTTP. */
export async function startProxy(
  t: TestContext,
  registries: readonly string[],
  options: TestProxyOptions = {},
): Promise<TestProxy> {
  const { cacheDir = await tempDirectory(t), cacheLimitBytes, client, ...rest } = options;
  const cache = await CacheDirectory.open(
    cacheDir,
    cacheLimitBytes === undefined ? {} : { limitBytes: cacheLimitBytes },
  );
  const proxy = await openProxy({
    host: "127.0.0.1",
    port: 0,
    registries,
    cache,
    store: new ImageStore(cache, silentLog),
    log: silentLog,
    forwardsLogins: false,
    client: { insecure: true, credentials: anonymous, retryBaseDelayMs: 1, timeoutMs: 5000, ...client },
    ...rest,
  });
  let stopped: Promise<void> | undefined;
  const stop = (drainMs = 0) => {
    stopped ??= proxy.stop(drainMs).then(() => cache[Symbol.asyncDispose]());
    return stopped;
  };
  t.after(() => stop());
  return { url: proxy.url, host: new URL(proxy.url).host, cacheDir, stop };
}

export interface Got {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: Buffer;
  /** False when the connection was cut before the body's end. */
  readonly complete: boolean;
}

/** One request on a connection of its own, with its head; the body is the caller's to read. */
export async function openRequest(url: string, options: RequestOptions = {}): Promise<IncomingMessage> {
  const [response] = (await once(get(url, { agent: false, ...options }), "response")) as [IncomingMessage];
  return response;
}

export async function request(url: string, options: RequestOptions = {}): Promise<Got> {
  const response = await openRequest(url, options);
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of response) chunks.push(chunk as Buffer);
  } catch {
    // Told by `complete`.
  }
  const { statusCode = 0, headers, complete } = response;
  return { status: statusCode, headers, body: Buffer.concat(chunks), complete };
}

/** Content that nothing compresses. */
export function content(sizeBytes: number): Buffer {
  return randomBytes(sizeBytes);
}
