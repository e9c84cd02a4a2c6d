import { homedir } from "node:os";
import { join } from "node:path";
import { OcifsError } from "../base/errors.js";
import { dockerHub } from "../oci/reference.js";
import { dockerHubServer, readAuthFile } from "./auth-file.js";
import { Credential, type CredentialProvider } from "./credential.js";
import { askHelper } from "./credential-helper.js";

export interface CredentialOptions {
  /** Given by the user; wins over all files. Both or none. */
  readonly username?: string;
  readonly password?: string;
  /** The one that they are for: others, its mirrors among them, have what the files say. Default: whoever asks. */
  readonly registry?: string;
  /** Defaults: this process's environment, home directory and user. */
  readonly env?: NodeJS.ProcessEnv;
  readonly homeDirectory?: string;
  readonly uid?: number;
}

/**
 * The credentials of this user: the given name and password, else the first answer from the auth files of Docker and Podman.
 * Throws `usage` when only one of name and password is given.
 */
export function findCredentials(options: CredentialOptions = {}): CredentialProvider {
  const { username, password, registry } = options;
  if ((username === undefined) !== (password === undefined)) {
    throw new OcifsError("usage", "oci.username and oci.password: give both or none");
  }
  const files = new AuthFileCredentials(options);
  if (username === undefined || password === undefined) return files;
  const credential = Credential.basic(username, password);
  return {
    find: async (asking, repository, signal) =>
      registry === undefined || asking === registry ? credential : await files.find(asking, repository, signal),
  };
}

/** Files are read for every login, so that a later `docker login` helps a mount that runs already. */
class AuthFileCredentials implements CredentialProvider {
  readonly #env: NodeJS.ProcessEnv;
  readonly #explicitPath: string | undefined;
  readonly #paths: readonly string[];

  constructor(options: CredentialOptions) {
    this.#env = options.env ?? process.env;
    this.#explicitPath = this.#env.REGISTRY_AUTH_FILE || undefined;
    this.#paths = authFilePaths(this.#env, options.homeDirectory ?? homedir(), options.uid ?? process.getuid?.() ?? 0);
  }

  async find(registry: string, repository: string, signal?: AbortSignal): Promise<Credential | undefined> {
    const server = registry === dockerHub ? dockerHubServer : registry;
    for (const path of this.#paths) {
      const file = await readAuthFile(path);
      if (file === undefined) {
        if (path !== this.#explicitPath) continue;
        throw new OcifsError(
          "not-found",
          `credentials in ${path}: REGISTRY_AUTH_FILE names a file that does not exist`,
        );
      }
      for (const answer of file.find(registry, repository)) {
        const credential =
          answer.kind === "credential"
            ? answer.credential
            : await askHelper(answer.helper, server, { signal, env: this.#env });
        if (credential !== undefined) return credential;
      }
    }
    return undefined;
  }
}

/** Docker's file, then Podman's (containers-auth.json(5)); a file named by REGISTRY_AUTH_FILE goes before both. */
export function authFilePaths(env: NodeJS.ProcessEnv, homeDirectory: string, uid: number): readonly string[] {
  const runtimeDirectory = env.XDG_RUNTIME_DIR || `/run/containers/${uid}`;
  const runtimeFile = env.XDG_RUNTIME_DIR
    ? join(runtimeDirectory, "containers", "auth.json")
    : join(runtimeDirectory, "auth.json");
  return [
    ...(env.REGISTRY_AUTH_FILE ? [env.REGISTRY_AUTH_FILE] : []),
    join(env.DOCKER_CONFIG || join(homeDirectory, ".docker"), "config.json"),
    runtimeFile,
    join(env.XDG_CONFIG_HOME || join(homeDirectory, ".config"), "containers", "auth.json"),
  ];
}
