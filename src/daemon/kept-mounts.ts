import { randomBytes } from "node:crypto";
import { closeSync, fstatSync, readSync } from "node:fs";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { version } from "../base/version.js";
import { writeFully } from "../cache/raw-file.js";
import type { DriverName, KeptMount } from "../drivers/driver.js";
import { hasServiceManager, type KeptDescriptor, notify } from "../native/notify.js";
import { openMemoryFile } from "../native/sparse.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import type { MountConfig } from "./mount-config.js";

/** Goes up when an older daemon could not go on with what a newer one kept. */
const STATE_VERSION = 1;
const STATE = "state";

/** A mount as a daemon left it to the next one. */
export interface KeptServedMount {
  readonly config: MountConfig;
  readonly driver: DriverName;
  readonly mount: KeptMount;
  /** What the source's tag meant; undefined for a `file:`. */
  readonly manifestDigest: Digest | undefined;
  /** The kernel holds inode numbers of this tree, and of no other. */
  readonly treeDigest: Digest;
  readonly mountedAt: string;
}

/** The part that is JSON, in a memory file: it holds the password of the mount, as the pipe did that it came through. */
interface KeptState extends Omit<KeptServedMount, "mount"> {
  readonly stateVersion: number;
  readonly version: string;
  readonly facts: KeptMount["facts"];
}

/** What lies with the service manager under one name. */
export interface MountKeeping {
  /** Takes it back: the mount has ended. */
  forget(): Promise<void>;
}

/**
 * Gives the service manager (the keeper, or systemd) what another daemon needs to go on with this mount. Undefined where
 * there is no manager. The descriptors come before the state that speaks of them: a state without them is never found.
 */
export async function keepMount(kept: KeptServedMount): Promise<MountKeeping | undefined> {
  if (!hasServiceManager()) return undefined;
  const name = `m${randomBytes(6).toString("hex")}`;
  const { mount, ...facts } = kept;
  const names = [...Object.keys(mount.fds), STATE].map((part) => `${name}.${part}`);
  for (const [part, fd] of Object.entries(mount.fds)) await store(`${name}.${part}`, fd);
  const state: KeptState = { ...facts, facts: mount.facts, stateVersion: STATE_VERSION, version };
  const bytes = Buffer.from(JSON.stringify(state));
  const fd = openMemoryFile(0);
  try {
    await writeFully(fd, bytes, 0);
    await store(`${name}.${STATE}`, fd);
  } finally {
    closeSync(fd);
  }
  return {
    async forget() {
      await forgetKept(names);
    },
  };
}

async function store(name: string, fd: number): Promise<void> {
  // FDPOLL=0: an error that the kernel reports for it is ours to see.
  await notify(`FDSTORE=1\nFDPOLL=0\nFDNAME=${name}`, [fd]);
}

/** One mount found with the service manager, or why it cannot be understood; then its descriptors are closed. */
export type FoundMount =
  | { readonly names: readonly string[]; readonly kept: KeptServedMount }
  | { readonly names: readonly string[]; readonly error: OcifsError };

/** Puts together what `takeKeptDescriptors` brought. Descriptors that belong to no mount are closed. */
export function readKeptMounts(descriptors: readonly KeptDescriptor[]): FoundMount[] {
  const groups = new Map<string, Map<string, number>>();
  for (const { name, fd } of descriptors) {
    const [mount = "", part = ""] = name.split(".");
    const group = groups.get(mount) ?? new Map<string, number>();
    groups.set(mount, group);
    const older = group.get(part);
    if (older !== undefined) closeSync(older);
    group.set(part, fd);
  }
  return [...groups].map(([mount, parts]) => {
    const names = [...parts.keys()].map((part) => `${mount}.${part}`);
    try {
      return { names, kept: readKeptMount(mount, parts) };
    } catch (error) {
      for (const [part, fd] of parts) if (part !== STATE) closeSync(fd);
      if (error instanceof OcifsError) return { names, error };
      throw error;
    }
  });
}

/** What `keepMount` put there is forgotten under these names. */
export async function forgetKept(names: readonly string[]): Promise<void> {
  for (const name of names) await notify(`FDSTOREREMOVE=1\nFDNAME=${name}`);
}

function readKeptMount(name: string, parts: ReadonlyMap<string, number>): KeptServedMount {
  const stateFd = parts.get(STATE);
  if (stateFd === undefined) {
    throw new OcifsError("corrupt", `kept mount ${name}: the daemon died before it described the mount`);
  }
  const state = readState(name, stateFd);
  if (state.stateVersion !== STATE_VERSION) {
    throw new OcifsError(
      "unsupported",
      `kept mount ${name}: it was kept by ocifs ${state.version} in form ${state.stateVersion}, want ${STATE_VERSION}`,
    );
  }
  const fds = Object.fromEntries([...parts].filter(([part]) => part !== STATE));
  const { config, driver, manifestDigest, treeDigest, mountedAt, facts } = state;
  return {
    config,
    driver,
    mount: { fds, facts },
    manifestDigest: manifestDigest === undefined ? undefined : parseDigest(manifestDigest),
    treeDigest: parseDigest(treeDigest),
    mountedAt,
  };
}

function readState(name: string, fd: number): KeptState {
  try {
    const { size } = fstatSync(fd);
    if (size > limits.keptStateBytes) {
      throw new OcifsError(
        "limit",
        `kept mount ${name}: ${size} bytes of state, the limit is ${limits.keptStateBytes}`,
      );
    }
    const bytes = Buffer.alloc(size);
    readSync(fd, bytes, 0, size, 0);
    return JSON.parse(bytes.toString("utf8")) as KeptState;
  } catch (cause) {
    if (cause instanceof OcifsError) throw cause;
    throw new OcifsError("corrupt", `kept mount ${name}: its state cannot be read`, { cause });
  } finally {
    closeSync(fd);
  }
}
