import { createPrivateKey, type KeyObject, randomUUID, sign, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type ReceivedRequest, startFaultyServer } from "./faulty-server.js";
import { runProgram } from "./process.js";

export interface TokenServer {
  readonly realm: string;
  readonly service: string;
  readonly issuer: string;
  readonly certificatePath: string;
  /** How long tokens live. The registry checks them to the second, with a minute of tolerance. */
  lifetimeSeconds: number;
  /** Refresh tokens that are accepted. */
  readonly refreshTokens: Set<string>;
  readonly requests: readonly ReceivedRequest[];
  stop(): Promise<void>;
}

/** A distribution token server (`token.md`, `oauth.md`, `jwt.md`): ES256 tokens with the certificate in the header. */
export async function startTokenServer(
  auth: { readonly user: string; readonly password: string },
  directory: string,
): Promise<TokenServer> {
  const certificatePath = join(directory, "token.crt");
  const { key, certificate } = await createCertificate(directory, "token");
  const service = "test-registry";
  const issuer = "test-issuer";
  const accepted = `Basic ${Buffer.from(`${auth.user}:${auth.password}`).toString("base64")}`;
  const refreshTokens = new Set<string>();

  const server = await startFaultyServer((request, response) => {
    const form = new URLSearchParams(request.method === "POST" ? request.body : (request.url.split("?")[1] ?? ""));
    const allowed =
      request.method === "POST"
        ? refreshTokens.has(form.get("refresh_token") ?? "")
        : request.headers.authorization === accepted;
    if (!allowed) {
      response.writeHead(401, { "content-type": "application/json" });
      response.end(JSON.stringify({ errors: [{ code: "UNAUTHORIZED", message: "wrong user or password" }] }));
      return;
    }
    const nowSeconds = Math.floor(Date.now() / 1000);
    const claims = {
      iss: issuer,
      sub: auth.user,
      aud: service,
      nbf: nowSeconds - 5,
      iat: nowSeconds,
      exp: nowSeconds + state.lifetimeSeconds,
      jti: randomUUID(),
      access: form.getAll("scope").flatMap((scope) => scope.split(" ").map(parseScope)),
    };
    const token = signToken(claims, key, certificate);
    response.writeHead(200, { "content-type": "application/json" });
    const name = request.method === "POST" ? "access_token" : "token";
    response.end(JSON.stringify({ [name]: token, expires_in: state.lifetimeSeconds }));
  });
  const state: TokenServer = {
    realm: `http://${server.host}/token`,
    service,
    issuer,
    certificatePath,
    lifetimeSeconds: 300,
    refreshTokens,
    requests: server.requests,
    stop: server.stop,
  };
  return state;
}

/** A self-signed EC certificate for 127.0.0.1, as `<directory>/<name>.crt` and `.key`. */
export async function createCertificate(directory: string, name: string) {
  const keyPath = join(directory, `${name}.key`);
  const certificatePath = join(directory, `${name}.crt`);
  const subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const files = ["-keyout", keyPath, "-out", certificatePath];
  await runProgram("openssl", ["req", "-x509", "-days", "2", ...curve, ...subject, ...files]);
  const certificatePem = await readFile(certificatePath, "utf8");
  const keyPem = await readFile(keyPath, "utf8");
  return { keyPem, certificatePem, key: createPrivateKey(keyPem), certificate: new X509Certificate(certificatePem) };
}

/** `repository:name:pull,push`; names may hold colons only in ports, which our tests do not use. */
function parseScope(scope: string) {
  const [type, name, actions = ""] = scope.split(":");
  return { type, name, actions: actions.split(",") };
}

function signToken(claims: object, key: KeyObject, certificate: X509Certificate): string {
  const header = { typ: "JWT", alg: "ES256", x5c: [certificate.raw.toString("base64")] };
  const payload = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
  const signature = sign("sha256", Buffer.from(payload), { key, dsaEncoding: "ieee-p1363" });
  return `${payload}.${signature.toString("base64url")}`;
}
