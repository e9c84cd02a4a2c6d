import { OcifsError } from "../base/errors.js";
import type { MountFlags } from "../drivers/driver.js";
import {
  defaultMountOptions,
  findOption,
  formatOptionHelp,
  knownKeys,
  type MountOptions,
  type OptionValues,
  optionTable,
} from "./mount-options.js";
import { type OptionWord, splitOptionWords, wordOfArgument } from "./option-words.js";
import { isShownByKernel, noMountFlags, standardWord } from "./standard-words.js";

/** Everything one command line of `mount.ocifs` asks for. Paths are as typed. */
export interface MountRequest {
  /** A registry reference, `oci:DIR[:tag]` or `file:PATH`; not yet parsed. */
  readonly source: string;
  readonly mountpoint: string;
  readonly options: MountOptions;
  readonly flags: MountFlags;
  /** `context="…"` and its kin, verbatim with their quotes, for the data argument of mount(2). */
  readonly securityOptions: readonly string[];
  /** `-N`: the mount namespace in which the mountpoint is, by a process' number or a path; not yet looked at. */
  readonly namespace?: string;
  /** `remount`: change the flags of the mount that is there. */
  readonly remount: boolean;
  /** `-f`: check the command line and the mountpoint, mount nothing. */
  readonly fake: boolean;
  /** `-v`. */
  readonly verbose: boolean;
  /** Words passed over because of `-s`, for a message under `-v`. */
  readonly toleratedWords: readonly string[];
}

export type MountCommand =
  | { readonly kind: "help" }
  | { readonly kind: "version" }
  | { readonly kind: "mount"; readonly request: MountRequest };

/**
 * Who started the helper. mount(8) puts `rw` first into `-o` whenever nobody asked for `ro`, so that word alone says
 * nothing when it comes from there; `detectCaller` in mount-caller.ts finds out.
 */
export type MountCaller = "mount8" | "user";

/** The arguments with their letters taken apart, before any meaning is given to them. */
interface ScannedArguments {
  readonly letters: Set<string>;
  readonly positionals: string[];
  readonly words: OptionWord[];
  namespace?: string;
  filesystemType?: string;
}

const plainLetters = new Set([..."sfnvrwVh"]);
const letterByLongName = new Map([
  ["--version", "V"],
  ["--help", "h"],
]);

/**
 * Parses `mount.ocifs SOURCE DIR [-sfnvrw] [-N ns] [-t type] [-o opts]` (mount(8), "EXTERNAL HELPERS").
 * `argv` is without the program's name. Options may stand anywhere, `-o` may come several times, words `oci.KEY=VALUE` may
 * stand on their own. Reads nothing but its arguments. Throws OcifsError: `usage`, or `unsupported` for what mount(8)
 * allows and ocifs cannot do.
 */
export function parseMountCommand(argv: readonly string[], caller: MountCaller = "user"): MountCommand {
  const scanned = scanArguments(argv);
  if (scanned.letters.has("h")) return { kind: "help" };
  if (scanned.letters.has("V")) return { kind: "version" };
  const type = scanned.filesystemType ?? "ocifs";
  if (type !== "ocifs" && type !== "fuse.ocifs") {
    throw new OcifsError("usage", `-t ${type}: mount.ocifs mounts type ocifs only; leave -t out or give -t ocifs`);
  }
  return { kind: "mount", request: buildRequest(scanned, caller) };
}

function scanArguments(argv: readonly string[]): ScannedArguments {
  const scanned: ScannedArguments = { letters: new Set(), positionals: [], words: [] };
  let onlyPositionals = false;
  for (let index = 0; index < argv.length; index += 1) {
    const argument = argv[index] ?? "";
    if (onlyPositionals || !argument.startsWith("-") || argument === "-") {
      if (!onlyPositionals && /^oci\.[^=]*=/.test(argument)) scanned.words.push(wordOfArgument(argument));
      else scanned.positionals.push(argument);
    } else if (argument === "--") {
      onlyPositionals = true;
    } else if (argument.startsWith("--")) {
      const letter = letterByLongName.get(argument);
      if (letter === undefined) {
        throw new OcifsError("usage", `${argument}: unknown option; see mount.ocifs --help`);
      }
      scanned.letters.add(letter);
    } else {
      index += scanCluster(scanned, argument.slice(1), argv[index + 1]);
    }
  }
  return scanned;
}

/** One `-abc`, the last of which may take a value: the rest of the cluster or the next argument. Returns how many of those it took. */
function scanCluster(scanned: ScannedArguments, cluster: string, next: string | undefined): 0 | 1 {
  for (let at = 0; at < cluster.length; at += 1) {
    const letter = cluster.charAt(at);
    if (plainLetters.has(letter)) {
      // The last of -r and -w counts, as with the words ro and rw.
      if (letter === "r" || letter === "w")
        scanned.words.push({ key: letter === "r" ? "ro" : "rw", raw: `-${letter}` });
      else scanned.letters.add(letter);
      continue;
    }
    if (letter !== "o" && letter !== "t" && letter !== "N") {
      throw new OcifsError("usage", `-${letter}: unknown option; see mount.ocifs --help`);
    }
    const rest = cluster.slice(at + 1);
    const value = rest === "" ? next : rest;
    if (value === undefined) throw new OcifsError("usage", `-${letter}: its value is missing; see mount.ocifs --help`);
    if (letter === "o") scanned.words.push(...splitOptionWords(value));
    else if (letter === "t") scanned.filesystemType = value;
    else scanned.namespace = value;
    return rest === "" ? 1 : 0;
  }
  return 0;
}

/** What the words add up to. */
interface Collected {
  readonly values: OptionValues;
  readonly texts: Map<string, string | undefined>;
  readonly securityOptions: string[];
  readonly toleratedWords: string[];
  flags: MountFlags;
  remount: boolean;
  /** The word that asked last for a writable or a read-only mount. */
  accessWord?: OptionWord;
}

function buildRequest(scanned: ScannedArguments, caller: MountCaller): MountRequest {
  const collected: Collected = {
    values: {},
    texts: new Map(),
    securityOptions: [],
    toleratedWords: [],
    flags: noMountFlags,
    remount: scanned.words.some(({ key }) => key === "remount"),
  };
  for (const word of scanned.words) collectWord(collected, word, scanned.letters.has("s"));
  refuseWritable(collected.accessWord, caller);
  checkCombinations(new Set(collected.texts.keys()));
  const { image, ...values } = collected.values;
  return {
    ...takePositionals(scanned.positionals, image),
    options: { ...defaultMountOptions, ...values },
    flags: collected.flags,
    securityOptions: collected.securityOptions,
    ...(scanned.namespace === undefined ? {} : { namespace: scanned.namespace }),
    remount: collected.remount,
    fake: scanned.letters.has("f"),
    verbose: scanned.letters.has("v"),
    toleratedWords: collected.toleratedWords,
  };
}

function collectWord(collected: Collected, word: OptionWord, sloppy: boolean): void {
  const option = findOption(word.key);
  if (option !== undefined) {
    if (collected.texts.has(word.key) && collected.texts.get(word.key) !== word.value) {
      throw new OcifsError("usage", `${word.key}: given twice with different values; give it once`);
    }
    collected.texts.set(word.key, word.value);
    option.assign(collected.values, word.value);
    return;
  }
  const standard = standardWord(word.key, word.value);
  if (standard?.kind === "flags") {
    collected.flags = { ...collected.flags, ...standard.flags };
  } else if (standard?.kind === "read-only") {
    collected.accessWord = word;
  } else if (standard?.kind === "security") {
    collected.securityOptions.push(word.raw);
  } else if (standard?.kind === "remount") {
    collected.remount = true;
  } else if (standard === undefined && !(collected.remount && isShownByKernel(word.key))) {
    tolerateUnknown(collected, word, sloppy);
  }
}

function tolerateUnknown(collected: Collected, word: OptionWord, sloppy: boolean): void {
  if (word.key === "oci" || word.key.startsWith("oci.")) {
    throw new OcifsError("usage", `${word.key}: unknown option; the known ones are ${knownKeys("oci.")}`);
  }
  if (!sloppy) {
    throw new OcifsError(
      "usage",
      `${word.key === "" ? word.raw : word.key}: unknown option; beside mount(8)'s own words the known ones are ${knownKeys("")}`,
    );
  }
  collected.toleratedWords.push(word.key);
}

function refuseWritable(accessWord: OptionWord | undefined, caller: MountCaller): void {
  if (accessWord === undefined || accessWord.key === "ro") return;
  if (caller === "mount8" && accessWord.raw === "rw") return;
  throw new OcifsError(
    "usage",
    `${accessWord.raw}: an image mounted by ocifs is read-only; leave ${accessWord.raw} out or say ro`,
  );
}

function checkCombinations(given: ReadonlySet<string>): void {
  for (const option of optionTable) {
    if (!given.has(option.key)) continue;
    const rival = option.excludes?.find((key) => given.has(key));
    if (rival !== undefined) {
      throw new OcifsError("usage", `${option.key}: cannot stand beside ${rival}; give one of them`);
    }
    if (option.needs !== undefined && !option.needs.some((key) => given.has(key))) {
      throw new OcifsError("usage", `${option.key}: needs ${option.needs.join(" or ")} beside it`);
    }
  }
}

function takePositionals(
  positionals: readonly string[],
  image: string | undefined,
): Pick<MountRequest, "source" | "mountpoint"> {
  const [first, second, ...rest] = positionals;
  if (image !== undefined && second !== undefined) {
    throw new OcifsError("usage", `oci.image=${image}: the source "${first}" is given as well; give one of them`);
  }
  const source = image ?? first;
  const mountpoint = image === undefined ? second : first;
  if (rest.length > 0) {
    throw new OcifsError(
      "usage",
      `"${rest.join(" ")}": too many arguments, want SOURCE and DIR; options stand behind -o`,
    );
  }
  if (source === undefined || source === "") throw new OcifsError("usage", `no source given; ${usageLine}`);
  if (mountpoint === undefined || mountpoint === "") throw new OcifsError("usage", `no mountpoint given; ${usageLine}`);
  return { source, mountpoint };
}

const usageLine = "usage: mount.ocifs SOURCE DIR [-sfnvrw] [-N ns] [-t type] [-o options]";

/** The text of `mount.ocifs --help`. */
export function formatMountHelp(): string {
  return `${usageLine}
       mount.ocifs oci.image=REF [oci.KEY=VALUE ...] DIR

Mounts a container image, or one layer of it, read-only and fetches only what is read. SOURCE is a registry reference
(registry.example/app:1.4, with a digest if wanted), an OCI image layout (oci:DIR[:tag]) or one local
blob (file:PATH). Unmount with umount DIR.

  -o LIST   options, separated by commas; may come several times
  -f        check the command line and the mountpoint, mount nothing
  -s        pass over unknown options, except oci.*
  -v        say more
  -r        read-only, which every mount is; -w is refused
  -n        accepted; there is no mtab to leave alone
  -t TYPE   ocifs
  -N NS     mount in another mount namespace: a process' number, or a path such as /proc/PID/ns/mnt
  -V, -h    print the version, or this help

Options [default]:
${formatOptionHelp()}
mount(8)'s own words (ro, nosuid, nodev, noexec, noatime, context=, _netdev, nofail, user, x-* ...) mean what they
mean there.
`;
}
