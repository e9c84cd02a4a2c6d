import { resolve } from "node:path";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { readBounded } from "../base/read-bounded.js";
import { defaultCacheDirectory } from "../cache/default-directory.js";
import type { MountConfig } from "../daemon/mount-config.js";
import type { MountNamespace } from "../drivers/driver.js";
import type { MountRequest } from "./mount-grammar.js";

/** What a command line asks for, as a daemon takes it: paths absolute, the password read. `mountpoint` is a real path, in `namespace`. */
export async function toMountConfig(
  request: MountRequest,
  mountpoint: string,
  namespace?: MountNamespace,
): Promise<MountConfig> {
  const o = request.options;
  const password = o.passwordFile === undefined ? o.password : await readPasswordFile(o.passwordFile);
  return {
    source: absoluteSource(request.source),
    mountpoint,
    ...(o.layer === undefined ? {} : { layer: o.layer }),
    ...(o.blob === undefined ? {} : { blob: o.blob }),
    ...(o.platform === undefined ? {} : { platform: o.platform }),
    ...(o.username === undefined ? {} : { username: o.username }),
    ...(password === undefined ? {} : { password }),
    insecure: o.insecure,
    ...(o.hostsDir === undefined ? {} : { hostsDir: resolve(o.hostsDir) }),
    ...(o.tarindex === undefined ? {} : { tarindex: resolve(o.tarindex) }),
    ...(o.zinfo === undefined ? {} : { zinfo: resolve(o.zinfo) }),
    driver: o.driver,
    cacheDir: resolve(o.cacheDir ?? defaultCacheDirectory()),
    ...(o.cacheSizeBytes === undefined ? {} : { cacheSizeBytes: o.cacheSizeBytes }),
    onError: o.onError,
    timeoutMs: o.timeoutMs,
    prefetch: o.prefetch,
    profile: o.profile,
    ...(o.prefetchBytesPerSecond === undefined ? {} : { prefetchBytesPerSecond: o.prefetchBytesPerSecond }),
    verify: o.verify,
    allowOther: o.allowOther,
    flags: request.flags,
    securityOptions: request.securityOptions,
    ...(o.metrics === undefined ? {} : { metrics: o.metrics }),
    ...(namespace === undefined ? {} : { namespace }),
    log: o.log.path === undefined ? { level: o.log.level } : { level: o.log.level, path: resolve(o.log.path) },
  };
}

/** Daemons work in "/": a path relative to here must not become one relative to there. */
function absoluteSource(source: string): string {
  const prefix = ["file:", "oci:"].find((p) => source.startsWith(p));
  if (prefix === undefined) return source;
  const rest = source.slice(prefix.length);
  return rest.startsWith("/") || rest === "" ? source : `${prefix}${process.cwd()}/${rest}`;
}

async function readPasswordFile(path: string): Promise<string> {
  const what = `oci.password_file ${path}, of which the first line is the password`;
  const content = await readBounded(path, limits.passwordBytes, what).catch((cause: Error) => {
    throw cause instanceof OcifsError ? cause : new OcifsError("io", `oci.password_file: ${cause.message}`, { cause });
  });
  const [line = ""] = content.toString("utf8").split(/\r?\n/, 1);
  if (line === "") throw new OcifsError("usage", `oci.password_file ${path}: its first line is empty`);
  return line;
}
