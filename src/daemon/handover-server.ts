import { closeSync } from "node:fs";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { ownMountNamespace } from "../base/mount-namespace.js";
import { version } from "../base/version.js";
import type { MadeMount } from "../drivers/driver.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { type FdClientHandler, FdServer } from "../serve/fd-server.js";
import type { FdSocket } from "../serve/fd-socket.js";
import { type DaemonMessage, HandoverChannel, type HelperMessage } from "./handover.js";
import type { MountConfig, Readiness } from "./mount-config.js";
import type { MountTable } from "./mount-table.js";
import { findMisplaced } from "./path-places.js";

/** Takes mounts from mount helpers of the same user, until it is disposed of. `busy` when another daemon does. */
export async function takeHandovers(path: string, table: MountTable, log: Log): Promise<FdServer> {
  const mountNamespace = await ownMountNamespace();
  return await FdServer.listen(path, {
    // Not even root's: what a mount may read of files is what this user may.
    admits: ({ uid }) => uid === process.geteuid?.(),
    open: (socket) => new Handover(socket, table, mountNamespace, log),
    log,
  });
}

/** One mount helper. */
class Handover implements FdClientHandler {
  readonly #channel: HandoverChannel<DaemonMessage, HelperMessage>;
  readonly #table: MountTable;
  readonly #mountNamespace: string;
  readonly #log: Log;
  #sending: Promise<void> | undefined;

  constructor(socket: FdSocket, table: MountTable, mountNamespace: string, log: Log) {
    this.#channel = new HandoverChannel(socket);
    this.#table = table;
    this.#mountNamespace = mountNamespace;
    this.#log = log;
  }

  async run(): Promise<void> {
    try {
      const { pid } = process;
      await this.#channel.send({ hello: { version, pid, mountNamespace: this.#mountNamespace } });
      const { mount, places } = await this.#receiveOrder();
      const elsewhere = await findMisplaced(places);
      const why =
        this.#table.refusal ??
        (elsewhere === undefined ? undefined : `it is in another mount namespace, where ${elsewhere} leads elsewhere`);
      if (why !== undefined) await this.#channel.send({ refused: why });
      else await this.#mount(mount);
      // Who has got the last word leaves; closing first could take it away from him.
      await this.#channel.ended;
    } catch (error) {
      // He has left, or breaks the rules: his affair.
      if (!isOcifsError(error)) throw error;
      this.#log.debug("a mount helper has left", { reason: messageOf(error) });
    } finally {
      this.close();
    }
  }

  close(): void {
    this.#channel[Symbol.dispose]();
  }

  async #receiveOrder(): Promise<Extract<HelperMessage, { mount: unknown }>> {
    const { message, fds } = await this.#channel.receive();
    for (const fd of fds) closeSync(fd);
    if ("mount" in message) return message;
    throw new OcifsError("corrupt", "handover: want a mount");
  }

  async #mount(config: MountConfig): Promise<void> {
    // A helper that leaves before its mount is ready has been interrupted, and takes the mount along.
    const opening = new AbortController();
    const onGone = () => opening.abort(new OcifsError("aborted", "mount: its helper has left"));
    const { gone } = this.#channel;
    gone.addEventListener("abort", onGone, { once: true });
    if (gone.aborted) onGone();
    try {
      const mount = await this.#table.open(config, {
        signal: opening.signal,
        makeMount: () => this.#makeMount(),
        onBuildProgress: (progress) => this.#tellProgress(progress),
      });
      try {
        const { driver, driverReason, warnings } = mount;
        await this.#tell({ ok: true, pid: process.pid, driver: `${driver}, ${driverReason}`, warnings });
        opening.signal.throwIfAborted();
      } catch (error) {
        await mount[Symbol.asyncDispose]();
        throw error;
      }
    } catch (error) {
      if (gone.aborted) throw error;
      const code = isOcifsError(error) ? error.code : "internal";
      await this.#tell({ ok: false, code, message: messageOf(error) });
    } finally {
      gone.removeEventListener("abort", onGone);
    }
  }

  async #makeMount(): Promise<MadeMount> {
    await this.#sending;
    await this.#channel.send({ makeMount: true });
    const { message, fds } = await this.#channel.receive();
    const [fd] = fds;
    if ("made" in message && fd !== undefined) {
      const { device, namespace } = message.made;
      return {
        fd,
        ...(device === undefined ? {} : { device }),
        ...(namespace === this.#mountNamespace ? {} : { namespace }),
      };
    }
    for (const each of fds) closeSync(each);
    throw new OcifsError("corrupt", "handover: want the mount's descriptor");
  }

  /** A helper that does not read gets no more of it. */
  #tellProgress(progress: BuildProgress): void {
    this.#sending ??= this.#channel
      .send({ progress })
      .catch(() => undefined)
      .finally(() => {
        this.#sending = undefined;
      });
  }

  async #tell(readiness: Readiness): Promise<void> {
    await this.#sending;
    await this.#channel.send(readiness);
  }
}
