import { lookup as dnsLookup, type LookupAddress } from "node:dns";
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
  ["link-local", blockList(["169.254.0.0", 16, "ipv4"], ["fe80::", 10, "ipv6"])],
];

/** undefined for an address that is neither. IPv4 addresses mapped into IPv6 are seen through. */
export function localKindOf(address: string): LocalKind | undefined {
  const bare = address.split("%", 1)[0] ?? address;
  const family = isIP(bare);
  if (family === 0) return undefined;
  return localLists.find(([, list]) => list.check(bare, family === 4 ? "ipv4" : "ipv6"))?.[0];
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
  readonly lookup: LookupFunction = (hostname, options, callback) => {
    this.#checkedLookup(hostname).then(
      (addresses) => {
        const family = options.family === 4 || options.family === 6 ? options.family : undefined;
        const usable = family === undefined ? addresses : addresses.filter((entry) => entry.family === family);
        const [first] = usable;
        if (first === undefined) callback(noAddress(hostname), "", 0);
        else if (options.all) callback(null, [...usable]);
        else callback(null, first.address, first.family);
      },
      (error: NodeJS.ErrnoException) => callback(error, "", 0),
    );
  };

  async #checkedLookup(hostname: string): Promise<readonly LookupAddress[]> {
    const addresses = await this.#resolve(hostname);
    for (const { address } of addresses) {
      const kind = localKindOf(address);
      if (kind !== undefined && hostname !== this.#registryHost && !(await this.#allowedKinds()).has(kind)) {
        throw refusal(`${hostname} (${address})`, kind, "connect");
      }
    }
    return addresses;
  }

  #allowedKinds(): Promise<ReadonlySet<LocalKind>> {
    this.#allowed ??= this.#registryKinds().catch((error: unknown) => {
      this.#allowed = undefined;
      throw error;
    });
    return this.#allowed;
  }

  async #registryKinds(): Promise<ReadonlySet<LocalKind>> {
    const addresses =
      isIP(this.#registryHost) === 0
        ? (await this.#resolve(this.#registryHost)).map(({ address }) => address)
        : [this.#registryHost];
    return new Set(addresses.map(localKindOf).filter((kind) => kind !== undefined));
  }
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
