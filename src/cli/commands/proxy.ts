import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { resolve } from "node:path";
import { Cleanup } from "../../base/cleanup.js";
import { messageOf, OcifsError } from "../../base/errors.js";
import { openLog } from "../../base/log.js";
import { CacheDirectory } from "../../cache/cache-directory.js";
import { defaultCacheDirectory } from "../../cache/default-directory.js";
import { ImageStore } from "../../cache/image-store.js";
import { parseReference } from "../../oci/reference.js";
import { defineCommand, loginOptions, type RegistryArguments, readCredentials } from "../command.js";
import { parseDurationMs, parseSizeBytes } from "../units.js";

interface Arguments extends Omit<RegistryArguments, "platform" | "hosts-dir"> {
  listen: string;
  upstream: string[];
  auth: "own" | "forward" | "none" | undefined;
  "tls-cert": string | undefined;
  "tls-key": string | undefined;
  cachesize: string | undefined;
  timeout: string;
  drain: string;
}

/** `ocifs proxy`: a registry to pull from, in front of others and of the cache. Runs until SIGINT or SIGTERM. */
export const proxyCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    loginOptions(yargs)
      .option("listen", { type: "string", requiresArg: true, demandOption: true, describe: "HOST:PORT; port 0: any" })
      .option("upstream", {
        type: "string",
        array: true,
        requiresArg: true,
        demandOption: true,
        describe: "Registry (HOST[:PORT]) to read from; again for more, which requests choose by ?ns=",
      })
      .option("auth", {
        choices: ["own", "forward", "none"] as const,
        describe: "Whose login the upstream sees: the proxy's (default on loopback), each client's, nobody's",
      })
      .option("tls-cert", {
        type: "string",
        requiresArg: true,
        describe: "PEM file: serve https with this certificate",
      })
      .option("tls-key", { type: "string", requiresArg: true, describe: "PEM file: its key" })
      .option("cachesize", { type: "string", requiresArg: true, describe: "Most bytes the cache may take up" })
      .option("timeout", {
        type: "string",
        requiresArg: true,
        default: "60s",
        describe: "How long an upstream without progress is tried again",
      })
      .option("drain", {
        type: "string",
        requiresArg: true,
        default: "30s",
        describe: "How long running answers may go on after SIGTERM",
      }),
  run: async (args, context) => {
    const address = parseListen(args.listen);
    const auth = args.auth ?? defaultAuth(address.host);
    const timeoutMs = parseDurationMs(args.timeout, "--timeout");
    const drainMs = parseDurationMs(args.drain, "--drain");
    const registries = args.upstream.map(parseUpstream);
    const login = await readCredentials(args, context);
    if (login && (auth !== "own" || registries.length > 1)) {
      throw new OcifsError(
        "usage",
        "--username: it is for one --upstream and --auth own; use docker login for several",
      );
    }
    const tls = await readTls(args);
    const limitBytes = args.cachesize === undefined ? undefined : parseSizeBytes(args.cachesize, "--cachesize");
    const { findCredentials } = await import("../../registry/credentials.js");
    const { anonymous } = await import("../../registry/credential.js");
    const { openProxy } = await import("../../proxy/proxy.js");
    const log = openLog("info", 2);
    await using cleanup = new Cleanup();
    const cache = cleanup.add(
      await CacheDirectory.open(
        resolve(args.cachedir ?? defaultCacheDirectory()),
        limitBytes === undefined ? {} : { limitBytes },
      ),
    );
    if (cache.unusable !== undefined)
      log.warn("the cache cannot be used; blobs are passed on", { reason: cache.unusable });
    const proxy = await openProxy({
      ...address,
      registries,
      cache,
      store: new ImageStore(cache, log),
      log,
      forwardsLogins: auth === "forward",
      ...(tls === undefined ? {} : { tls }),
      client: {
        insecure: args.insecure,
        credentials: auth === "own" ? findCredentials(login ?? {}) : anonymous,
        timeoutMs,
      },
    });
    context.stderr.write(`ocifs: proxy of ${registries.join(", ")} listens on ${proxy.url}\n`);
    if (!context.signal.aborted) {
      await new Promise<void>((wake) => context.signal.addEventListener("abort", () => wake(), { once: true }));
    }
    await proxy.stop(drainMs);
  },
});

function parseListen(text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) {
    throw new OcifsError("usage", `--listen "${text}": want HOST:PORT such as 127.0.0.1:5000 or [::1]:5000`);
  }
  return { host, port };
}

/** Whoever reaches the proxy reads with the rights of its login: beyond this machine that is for its user to say. */
function defaultAuth(host: string): "own" {
  if (host === "localhost" || (isIP(host) === 4 && host.startsWith("127.")) || host === "::1") return "own";
  throw new OcifsError(
    "usage",
    `--listen ${host}: others can reach it; say --auth forward (clients log in themselves), none, or own (all read with your login)`,
  );
}

function parseUpstream(text: string): string {
  const { registry, repository } = parseReference(`${text}/x/y`);
  if (repository !== "x/y") throw new OcifsError("usage", `--upstream "${text}": want HOST or HOST:PORT`);
  return registry;
}

async function readTls(args: Arguments): Promise<{ cert: string; key: string } | undefined> {
  const { "tls-cert": cert, "tls-key": key } = args;
  if (cert === undefined && key === undefined) return undefined;
  if (cert === undefined || key === undefined) {
    throw new OcifsError("usage", "--tls-cert and --tls-key go together; give both or neither");
  }
  return { cert: await readPem(cert), key: await readPem(key) };
}

async function readPem(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new OcifsError("io", `read ${path}: ${messageOf(cause)}`, { cause });
  }
}
