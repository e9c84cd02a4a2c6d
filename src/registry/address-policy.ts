import { lookup as dnsLookup, type LookupAddress, type LookupOptions } from "node:dns";
import { BlockList, isIP, type LookupFunction } from "node:net";
import { OcifsError } from "../base/errors.js";
import { redactUrl } from "./redact.js";

/** Addresses that reach the machine itself, or its link: cloud metadata services live there. */
type LocalKind = "loopback" | "link-local";

function blockList(...subnets: [address: string, prefix: number, family: "ipv4" | "ipv6"][]): BlockList {
  const list = new BlockList();
  for (const [address, prefix, family] of subnets) list.addSubnet(address, prefix, family);
  return list;
}

/** The unspecified address counts as loopback: connecting to it reaches this machine. */
const localLists: readonly (readonly [LocalKind, BlockList])[] = [
  ["loopback", blockList(["127.0.0.0", 8, "ipv4"], ["0.0.0.0", 8, "ipv4"], ["::1", 128, "ipv6"], ["::", 128, "ipv6"])],
  [
    "link-local",
    // The last is the metadata service of EC2 by IPv6, which lies outside of fe80::/10.
    blockList(["169.254.0.0", 16, "ipv4"], ["fe80::", 10, "ipv6"], ["fd00:ec2::254", 128, "ipv6"]),
  ],
];

/**
 * IPv6 addresses that stand for an IPv4 address, and the first byte of it: IPv4-compatible (RFC 4291 2.5.5.1), NAT64 (RFC
 * 6052, RFC 8215), 6to4 (RFC 3056). A gateway or the kernel may take them there. Mapped ones BlockList sees through itself.
 */
const embeddings: readonly (readonly [prefix: BlockList, firstByte: number])[] = [
  [blockList(["::", 96, "ipv6"], ["64:ff9b::", 96, "ipv6"], ["64:ff9b:1::", 48, "ipv6"]), 12],
  [blockList(["2002::", 16, "ipv6"]), 2],
];

/** undefined for an address that is neither. IPv4 addresses inside IPv6 addresses are seen through. */
export function localKindOf(address: string): LocalKind | undefined {
  const bare = address.split("%", 1)[0] ?? address;
  const family = isIP(bare);
  if (family === 0) return undefined;
  const type = family === 4 ? "ipv4" : "ipv6";
  const direct = localLists.find(([, list]) => list.check(bare, type))?.[0];
  const embedding = embeddings.find(([prefix]) => family === 6 && prefix.check(bare, "ipv6"));
  if (direct !== undefined || embedding === undefined) return direct;
  return localKindOf(
    bytesOf(bare)
      .slice(embedding[1], embedding[1] + 4)
      .join("."),
  );
}

/** The 16 bytes of a valid IPv6 address. */
function bytesOf(address: string): number[] {
  // The URL parser writes every form the same way: hexadecimal groups, at most one "::".
  const [head = "", tail] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split("::");
  const groupsOf = (text: string) => (text === "" ? [] : text.split(":").map((group) => Number.parseInt(group, 16)));
  const first = groupsOf(head);
  const last = groupsOf(tail ?? "");
  const zeros = Array.from({ length: 8 - first.length - last.length }, () => 0);
  return [...first, ...zeros, ...last].flatMap((group) => [group >> 8, group & 0xff]);
}

/** Resolves a name to all its addresses. */
export type Resolver = (hostname: string) => Promise<readonly LookupAddress[]>;

export const systemResolver: Resolver = (hostname) =>
  new Promise((resolve, reject) => {
    dnsLookup(hostname, { all: true }, (error, addresses) => (error === null ? resolve(addresses) : reject(error)));
  });

/**
 * Keeps a registry from sending us elsewhere on this machine: token realms and redirects that lead to a loopback or
 * link-local address are refused, unless the registry itself has an address of that kind. Names are judged by what they
 * resolve to, at the moment of the connection, so a name cannot change its mind in between.
 */
export class AddressPolicy {
  readonly #registryHost: string;
  readonly #resolve: Resolver;
  #allowed: Promise<ReadonlySet<LocalKind>> | undefined;

  /** `registryUrl`: where the user said the registry is. */
  constructor(registryUrl: URL, resolve: Resolver = systemResolver) {
    this.#registryHost = bareHost(registryUrl.hostname);
    this.#resolve = resolve;
  }

  /** Throws `denied` when the URL's host is a forbidden literal address. Names are checked by {@link lookup}. */
  async checkLiteral(url: URL, what: string): Promise<void> {
    const host = bareHost(url.hostname);
    if (host === this.#registryHost) return;
    const kind = localKindOf(host);
    if (kind !== undefined && !(await this.#allowedKinds()).has(kind)) throw refusal(redactUrl(url), kind, what);
  }

  /** A `lookup` for net.connect that refuses names with a forbidden address. */
  readonly lookup: LookupFunction = (hostname, options, callback) =>
    answerLookup(this.#checkedLookup(hostname), hostname, options, callback);

  /**
   * The same for connections to the registry itself, which may have any address. The kinds of the first answer are those that
   * stay allowed elsewhere: a registry's name that comes to mean this machine later opens nothing.
   */
  readonly registryLookup: LookupFunction = (hostname, options, callback) => {
    const addresses = this.#resolve(hostname);
    // Who needs it hears of a failure; the connection does so by itself.
    this.#remember(addresses).catch(() => undefined);
    answerLookup(addresses, hostname, options, callback);
  };

  async #checkedLookup(hostname: string): Promise<readonly LookupAddress[]> {
    const addresses = await this.#resolve(hostname);
    for (const { address } of addresses) {
      const kind = localKindOf(address);
      if (kind !== undefined && !(await this.#allowedKinds()).has(kind)) {
        throw refusal(`${hostname} (${address})`, kind, "connect");
      }
    }
    return addresses;
  }

  #allowedKinds(): Promise<ReadonlySet<LocalKind>> {
    const host = this.#registryHost;
    if (this.#allowed !== undefined) return this.#allowed;
    return this.#remember(isIP(host) === 0 ? this.#resolve(host) : Promise.resolve([{ address: host, family: 0 }]));
  }

  /** Where the registry is, unless that is known. After a failure it is not. */
  #remember(addresses: Promise<readonly LookupAddress[]>): Promise<ReadonlySet<LocalKind>> {
    this.#allowed ??= addresses.then(kindsOf).catch((error: unknown) => {
      this.#allowed = undefined;
      throw error;
    });
    return this.#allowed;
  }
}

function kindsOf(addresses: readonly LookupAddress[]): ReadonlySet<LocalKind> {
  return new Set(addresses.map(({ address }) => localKindOf(address)).filter((kind) => kind !== undefined));
}

/** Gives the addresses to net.connect in the form it asked for. */
function answerLookup(
  addresses: Promise<readonly LookupAddress[]>,
  hostname: string,
  options: LookupOptions,
  callback: Parameters<LookupFunction>[2],
): void {
  addresses.then(
    (all) => {
      const family = options.family === 4 || options.family === 6 ? options.family : undefined;
      const usable = family === undefined ? all : all.filter((entry) => entry.family === family);
      const [first] = usable;
      if (first === undefined) callback(noAddress(hostname), "", 0);
      else if (options.all) callback(null, [...usable]);
      else callback(null, first.address, first.family);
    },
    (error: NodeJS.ErrnoException) => callback(error, "", 0),
  );
}

function noAddress(hostname: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`no usable address for ${hostname}`), { code: "ENOTFOUND" });
}

function bareHost(hostname: string): string {
  return hostname.replace(/^\[(.*)\]$/, "$1");
}

function refusal(target: string, kind: LocalKind, what: string): OcifsError {
  return new OcifsError(
    "denied",
    `${what}: the registry points to ${target}, a ${kind} address, but is not at such an address itself; refused`,
  );
}
