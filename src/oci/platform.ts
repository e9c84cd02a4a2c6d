import { endianness } from "node:os";
import { OcifsError } from "../base/errors.js";

/** Names are GOOS and GOARCH values, as the OCI image spec asks. Always normalised, see {@link normalizePlatform}. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
}

const architectureAliases: ReadonlyMap<string, readonly [architecture: string, variant?: string]> = new Map([
  ["x86_64", ["amd64"]],
  ["x86-64", ["amd64"]],
  ["aarch64", ["arm64"]],
  ["armhf", ["arm", "v7"]],
  ["armel", ["arm", "v6"]],
  ["i386", ["386"]],
  ["i486", ["386"]],
  ["i586", ["386"]],
  ["i686", ["386"]],
  ["x86", ["386"]],
]);

/** The variant meant when none is written. */
const defaultVariants: ReadonlyMap<string, string> = new Map([
  ["arm", "v7"],
  ["arm64", "v8"],
  ["amd64", "v1"],
]);

/**
 * One spelling for one platform: aliases resolved (`x86_64`, `aarch64`, `armhf`), lower case, variants as `v<N>`, and the
 * default variant of arm (v7), arm64 (v8) and amd64 (v1) filled in for matching; {@link formatPlatform} writes it.
 */
export function normalizePlatform(os: string, architecture: string, variant?: string): Platform {
  const arch = architecture.toLowerCase();
  const [canonical, impliedVariant] = architectureAliases.get(arch) ?? [arch];
  const given = variant === undefined || variant === "" ? impliedVariant : variant.toLowerCase();
  const spelled = given !== undefined && /^\d/.test(given) ? `v${given}` : given;
  const chosen = spelled?.replace(/\.0$/, "") ?? defaultVariants.get(canonical);
  const canonicalOs = os.toLowerCase() === "macos" ? "darwin" : os.toLowerCase();
  return { os: canonicalOs, architecture: canonical, ...(chosen === undefined ? {} : { variant: chosen }) };
}

/** Parses `os/architecture[/variant]`; throws `usage`. */
export function parsePlatform(text: string): Platform {
  const [os, architecture, variant, ...rest] = text.split("/");
  const parts = [os, architecture, ...(variant === undefined ? [] : [variant])];
  if (rest.length > 0 || parts.some((part) => part === undefined || !/^[A-Za-z0-9_.-]+$/.test(part))) {
    throw new OcifsError("usage", `platform "${text}": want os/architecture[/variant], for example linux/arm64`);
  }
  return normalizePlatform(os ?? "", architecture ?? "", variant);
}

/** `os/architecture[/variant]`, the variant only where it is not the one everybody means. */
export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = platform;
  const silent = variant === undefined || (architecture === "amd64" && variant === "v1");
  return silent ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`;
}

const nodeArchitectures: ReadonlyMap<string, string> = new Map([
  ["x64", "amd64"],
  ["ia32", "386"],
  ["arm64", "arm64"],
  ["riscv64", "riscv64"],
  ["s390x", "s390x"],
  ["loong64", "loong64"],
  ["mips", "mips"],
  ["mipsel", "mipsle"],
]);

/** Facts about the machine; the default is this one. */
export interface MachineFacts {
  /** `process.arch`. */
  readonly arch: string;
  readonly endianness: "BE" | "LE";
  /** `process.config.variables.arm_version`: what Node was built for, "6" or "7". */
  readonly armVersion?: string;
}

/** The platform whose images run here. Always `linux`: ocifs mounts Linux images on macOS too. */
export function hostPlatform(facts: MachineFacts = thisMachine()): Platform {
  if (facts.arch === "arm") return normalizePlatform("linux", "arm", facts.armVersion ?? "7");
  if (facts.arch === "ppc64") return normalizePlatform("linux", facts.endianness === "LE" ? "ppc64le" : "ppc64");
  const architecture = nodeArchitectures.get(facts.arch);
  if (architecture === undefined) {
    throw new OcifsError("unsupported", `this machine's architecture "${facts.arch}": give oci.platform=`);
  }
  return normalizePlatform("linux", architecture);
}

function thisMachine(): MachineFacts {
  const variables: Record<string, unknown> = { ...process.config.variables };
  const armVersion = variables.arm_version;
  const version =
    typeof armVersion === "string" || typeof armVersion === "number" ? { armVersion: `${armVersion}` } : {};
  return { arch: process.arch, endianness: endianness(), ...version };
}

/** Architectures whose variants run everything of the variants below them. */
const orderedVariants: ReadonlySet<string> = new Set(["amd64", "arm", "arm64"]);

/**
 * How well an image for `have` serves `wanted`: 0 is exact, higher is worse, undefined is not at all. As in containerd, an
 * older variant of the same architecture will do (arm/v6 for arm/v7, amd64 for amd64/v3). Unlike there, another
 * architecture never does: a 386 image is not what a user of an amd64 machine expects to find mounted.
 */
export function platformDistance(wanted: Platform, have: Platform): number | undefined {
  if (wanted.os !== have.os || wanted.architecture !== have.architecture) return undefined;
  if (wanted.variant === have.variant) return 0;
  if (!orderedVariants.has(wanted.architecture)) return undefined;
  const wantedLevel = variantLevel(wanted.variant);
  const haveLevel = variantLevel(have.variant);
  if (wantedLevel === undefined || haveLevel === undefined || haveLevel > wantedLevel) return undefined;
  return wantedLevel - haveLevel;
}

/** `v8` → 8, `v9.2` → 9.2. */
function variantLevel(variant: string | undefined): number | undefined {
  const match = /^v(\d{1,3}(?:\.\d{1,3})?)$/.exec(variant ?? "");
  return match?.[1] === undefined ? undefined : Number(match[1]);
}
