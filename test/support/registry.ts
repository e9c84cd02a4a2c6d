import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runProgram, startProcess } from "./process.js";

export { type PushedDescriptor, type PushedImage, type PushOptions, pushImage, pushManifest } from "./push-image.js";

import { startTokenServer, type TokenServer } from "./token-server.js";

export interface RegistryAuth {
  readonly user: string;
  readonly password: string;
  /** Default `basic`: htpasswd. `bearer`: a token server of our own signs tokens that the registry verifies. */
  readonly scheme?: "basic" | "bearer";
}

export interface RegistryOptions {
  readonly auth?: RegistryAuth;
  /** Kept when the registry stops; a temporary directory otherwise. */
  readonly storageDir?: string;
  /** A line for each request, in the combined format, goes to this file; no log otherwise. */
  readonly accessLogPath?: string;
}

export interface TestRegistry {
  /** `127.0.0.1:PORT`, for image references. */
  readonly host: string;
  /** Set with `bearer`. */
  readonly tokenServer?: TokenServer;
  stop(): Promise<void>;
}

/** Starts a real registry (Debian's docker-registry) on a free loopback port; it listens when this returns. */
export async function startRegistry(options: RegistryOptions = {}): Promise<TestRegistry> {
  const directory = await mkdtemp(join(tmpdir(), "ocifs-registry-"));
  const undo: (() => Promise<void>)[] = [() => rm(directory, { recursive: true, force: true })];
  const stop = async () => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    const storageDir = options.storageDir ?? join(directory, "storage");
    await mkdir(storageDir, { recursive: true });
    const { auth } = options;
    let tokenServer: TokenServer | undefined;
    if (auth?.scheme === "bearer") {
      tokenServer = await startTokenServer(auth, directory);
      undo.push(tokenServer.stop);
    }
    const config = join(directory, "config.json");
    await writeFile(config, JSON.stringify(await configOf(storageDir, directory, options, tokenServer)));
    const registry = await startProcess(
      "docker-registry",
      ["serve", config],
      /listening on ([0-9.]+:\d+)/,
      options.accessLogPath,
    );
    undo.push(registry.stop);
    const host = registry.match[1] ?? "";
    return { host, stop, ...(tokenServer === undefined ? {} : { tokenServer }) };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The registry reads YAML, of which JSON is a part. */
async function configOf(storageDir: string, directory: string, options: RegistryOptions, tokenServer?: TokenServer) {
  const { auth, accessLogPath } = options;
  return {
    version: 0.1,
    log: { level: "info", accesslog: { disabled: accessLogPath === undefined } },
    storage: { filesystem: { rootdirectory: storageDir }, delete: { enabled: true } },
    http: { addr: "127.0.0.1:0", secret: "test" },
    ...(auth === undefined ? {} : { auth: await authConfigOf(directory, auth, tokenServer) }),
  };
}

async function authConfigOf(directory: string, auth: RegistryAuth, tokenServer?: TokenServer) {
  if (tokenServer !== undefined) {
    const { realm, service, issuer, certificatePath: rootcertbundle } = tokenServer;
    return { token: { realm, service, issuer, rootcertbundle } };
  }
  const path = join(directory, "htpasswd");
  await writeFile(path, await runProgram("htpasswd", ["-Bbn", "-C", "4", auth.user, auth.password]));
  return { htpasswd: { realm: "test", path } };
}
