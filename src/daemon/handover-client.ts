import { closeSync } from "node:fs";
import { homedir } from "node:os";
import { messageOf, OcifsError, type OcifsErrorCode } from "../base/errors.js";
import { ownMountNamespace } from "../base/mount-namespace.js";
import { version } from "../base/version.js";
import type { MadeMount } from "../drivers/driver.js";
import { type FuseMountRequest, finishFuseMount, isRoot, mountFuseAt } from "../drivers/fuse-mount.js";
import { detachFrom } from "../drivers/mountpoint.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { connectSocket, SocketPoller } from "../native/fdpass.js";
import { FdSocket } from "../serve/fd-socket.js";
import { type DaemonMessage, HandoverChannel, type Hello, type HelperMessage, handoverSocketPath } from "./handover.js";
import type { MountConfig, Readiness } from "./mount-config.js";
import { placesOf } from "./path-places.js";
import { openRuntimeDirectory } from "./runtime-directory.js";

/** What says where logins are: see registry/credentials.ts, and PATH for their helpers. */
const loginVariables = ["HOME", "PATH", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"];

export type Ready = Readiness & { readonly ok: true };

/** The mount is made, or the shared daemon does not take it, which says nothing about the image. */
export type HandoverOutcome = { readonly ready: Ready } | { readonly refused: string };

type Channel = HandoverChannel<HelperMessage, DaemonMessage>;

/**
 * Hands a mount to the shared daemon of this user and waits until it answers: the mount is made by this process, in its own mount namespace
 * or the config's, and served by the daemon. What went wrong is thrown as the daemon's OcifsError, and leaves nothing mounted.
 */
export async function handOver(
  config: MountConfig,
  signal: AbortSignal,
  onBuildProgress: (progress: BuildProgress) => void,
): Promise<HandoverOutcome> {
  // The directory is checked to be ours before anything secret is said in it.
  const path = handoverSocketPath(await openRuntimeDirectory());
  let fd: number;
  try {
    fd = connectSocket(path);
  } catch (error) {
    return { refused: `no shared daemon takes mounts: ${messageOf(error)}` };
  }
  using poller = new SocketPoller();
  using channel: Channel = new HandoverChannel(new FdSocket(fd, poller));
  const leave = () => channel[Symbol.dispose]();
  signal.addEventListener("abort", leave, { once: true });
  try {
    const first = await channel.receive().catch((error: unknown) => messageOf(error));
    if (typeof first === "string") return { refused: first };
    const hello = "hello" in first.message ? first.message.hello : undefined;
    const refused = hello === undefined ? "it speaks otherwise" : await whyNotFor(hello);
    if (refused !== undefined) return { refused };
    await channel.send({
      mount: { ...config, loginEnv: loginEnvironment() },
      places: await placesOf(config),
    });
    return await converse(config, channel, onBuildProgress);
  } catch (error) {
    if (signal.aborted) throw new OcifsError("aborted", "mount: interrupted");
    throw error;
  } finally {
    signal.removeEventListener("abort", leave);
  }
}

/** Why this mount needs a daemon of its own, as a sentence. */
async function whyNotFor(hello: Hello): Promise<string | undefined> {
  if (hello.version !== version) return `it is version ${hello.version}, this is ${version}`;
  if ((await ownMountNamespace()) === hello.mountNamespace) return undefined;
  if (!isRoot()) return "it is in another mount namespace, of which it could not take a mount away again";
  return undefined;
}

async function converse(
  config: MountConfig,
  channel: Channel,
  onBuildProgress: (progress: BuildProgress) => void,
): Promise<HandoverOutcome> {
  const request: FuseMountRequest = { ...config, sourceName: config.source };
  let made: MadeMount | undefined;
  try {
    for (;;) {
      const { message, fds } = await channel.receive();
      for (const fd of fds) closeSync(fd);
      if ("refused" in message) return { refused: message.refused };
      if ("progress" in message) onBuildProgress(message.progress);
      if ("makeMount" in message && !made) {
        made = await mountFuseAt(request);
        await sendMade(channel, made);
      }
      if (!("ok" in message)) continue;
      if (!message.ok) throw new OcifsError(message.code as OcifsErrorCode, message.message);
      if (made) await finishFuseMount(request, made);
      return { ready: message };
    }
  } catch (error) {
    const { mountpoint } = config;
    if (made) await detachFrom({ mountpoint, device: made.device, namespace: made.namespace }, isRoot());
    // Not a word of what is wrong: the daemon has died, or ends.
    if (error === channel.gone.reason) return { refused: messageOf(error) };
    throw error;
  }
}

/** From here on the daemon has the connection, and it ends with the daemon. */
async function sendMade(channel: Channel, { fd, device, namespace }: MadeMount): Promise<void> {
  try {
    const where = namespace ?? (await ownMountNamespace());
    await channel.send({ made: { ...(device === undefined ? {} : { device }), namespace: where } }, [fd]);
  } finally {
    closeSync(fd);
  }
}

/** What is missing in it is missing on purpose: the daemon's own must not take its place. */
function loginEnvironment(): Record<string, string> {
  const found = { HOME: homedir(), ...process.env };
  return Object.fromEntries(
    Object.entries(found).filter(
      (entry): entry is [string, string] => loginVariables.includes(entry[0]) && entry[1] !== undefined,
    ),
  );
}
