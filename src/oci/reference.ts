import { OcifsError } from "../base/errors.js";
import { type Digest, parseDigest } from "./digest.js";

/**
 * An image reference. `registry` is the canonical name: lower case, with its port if one was written; Docker Hub is
 * `docker.io` whatever it was called. At least one of `tag` and `digest` is there; the digest decides when both are.
 */
export interface Reference {
  readonly registry: string;
  readonly repository: string;
  readonly tag?: string;
  readonly digest?: Digest;
}

export const dockerHub = "docker.io";

/** Names people use for Docker Hub. */
const dockerHubNames: ReadonlySet<string> = new Set([dockerHub, "index.docker.io", "registry-1.docker.io"]);

const hostLabel = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?";
const hostShape = new RegExp(`^(?:${hostLabel}(?:\\.${hostLabel})*|\\[[0-9A-Fa-f:.]+\\])(?::(\\d{1,5}))?$`);
const componentShape = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const tagShape = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
/** The distribution project's limit of a repository name together with its registry. */
const maxNameLength = 255;

export function isTag(text: string): boolean {
  return tagShape.test(text);
}

/**
 * Parses `[registry/]repository[:tag][@digest]`, with Docker's rules: the first component is a registry when it holds a
 * `.` or a `:` or is `localhost`, otherwise the registry is Docker Hub; a Hub name of one component is under `library/`;
 * without tag and digest the tag is `latest`. Throws `usage`.
 */
export function parseReference(text: string): Reference {
  const fail = (why: string) => new OcifsError("usage", `image reference "${text.slice(0, 300)}": ${why}`);
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) throw fail("write it without a scheme, as registry/repository:tag");
  if (text === "") throw fail("it is empty; want [registry/]repository[:tag][@digest]");

  const { named, digest } = splitDigest(text, fail);
  const { name, tag } = splitTag(named, fail);
  const { registry, repository } = splitRegistry(name, fail);
  for (const component of repository.split("/")) {
    if (componentShape.test(component)) continue;
    if (component === "") throw fail("the repository name has an empty component");
    if (/[A-Z]/.test(component)) throw fail(`repository component "${component}" must be lower case`);
    throw fail(
      `repository component "${component}" may hold only a-z, 0-9 and single separators . _ __ - between them`,
    );
  }
  if (`${registry}/${repository}`.length > maxNameLength)
    throw fail(`the name is longer than ${maxNameLength} characters`);
  if (tag === undefined && digest === undefined) return { registry, repository, tag: "latest" };
  return { registry, repository, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { digest }) };
}

type Fail = (why: string) => OcifsError;

function splitDigest(text: string, fail: Fail): { named: string; digest?: Digest } {
  const at = text.indexOf("@");
  if (at < 0) return { named: text };
  try {
    return { named: text.slice(0, at), digest: parseDigest(text.slice(at + 1)) };
  } catch (cause) {
    throw new OcifsError("usage", fail(`after "@" must stand sha256:<64 hex> or sha512:<128 hex>`).message, { cause });
  }
}

/** A `:` after the last `/` starts the tag, one before it a port; `host:5000` alone therefore is repository `host`, tag `5000`. */
function splitTag(named: string, fail: Fail): { name: string; tag?: string } {
  const colon = named.indexOf(":", named.lastIndexOf("/") + 1);
  if (colon < 0) return { name: named };
  const tag = named.slice(colon + 1);
  if (!isTag(tag))
    throw fail(`tag "${tag.slice(0, 140)}" must be 1 to 128 of A-Z a-z 0-9 _ . - and not start with . or -`);
  return { name: named.slice(0, colon), tag };
}

function splitRegistry(name: string, fail: Fail): { registry: string; repository: string } {
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  if (first === "" || !(/[.:]/.test(first) || first.toLowerCase() === "localhost")) {
    if (slash === 0) throw fail("nothing stands before the first /");
    if (/^[0-9a-f]{64}$/.test(name)) throw fail("it is a bare hex digest; write repository@sha256:<hex>");
    return { registry: dockerHub, repository: slash < 0 ? `library/${name}` : name };
  }
  const port = hostShape.exec(first);
  if (port === null) throw fail(`"${first}" is not a host name with an optional port`);
  if (port[1] !== undefined && (Number(port[1]) < 1 || Number(port[1]) > 65535))
    throw fail(`port ${port[1]} is not 1 to 65535`);
  const host = first.toLowerCase();
  const rest = name.slice(slash + 1);
  if (!dockerHubNames.has(host)) return { registry: host, repository: rest };
  return { registry: dockerHub, repository: rest.includes("/") ? rest : `library/${rest}` };
}

/** The canonical form, complete with registry: `docker.io/library/x:tag@sha256:…`. Parses back to an equal Reference. */
export function formatReference(reference: Reference): string {
  const tag = reference.tag === undefined ? "" : `:${reference.tag}`;
  const digest = reference.digest === undefined ? "" : `@${reference.digest}`;
  return `${reference.registry}/${reference.repository}${tag}${digest}`;
}

/** The host (and port) that speaks the registry API; only Docker Hub's differs from its name. */
export function apiHostOf(registry: string): string {
  return registry === dockerHub ? "registry-1.docker.io" : registry;
}

/** What stands in a manifest URL: the digest if there is one, else the tag. */
export function manifestSelectorOf(reference: Reference): string {
  return reference.digest ?? reference.tag ?? "latest";
}
