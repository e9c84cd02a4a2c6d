import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { runCommand } from "../../bench/command.js";
import { makeLayer } from "../content.js";
import { TortureRegistry } from "../registry.js";
import { type Stage, sum } from "../stage.js";
import { Findings, type Outcome } from "../verdict.js";

const MIB = 1 << 20;

/** A cache whose file system is full from the start, gets room in the middle, and must then be right. */
export async function diskFull(stage: Stage): Promise<Outcome> {
  const found = new Findings();
  const layer = makeLayer({ seed: 41, files: 8, fileBytes: 3 << 20 });
  const registry = await TortureRegistry.start(new Map([["full", layer]]));
  stage.defer(() => registry[Symbol.asyncDispose]());
  const disk = join(stage.directory, "disk");
  await mkdir(disk);
  const { signal } = stage;
  await runCommand("mount", ["-t", "tmpfs", "-o", "size=96m", "none", disk], { signal });
  stage.defer(async () => void (await runCommand("umount", ["-l", disk], { signal: new AbortController().signal })));
  // Room for some of the layer: it fills up in the middle of the work, in whichever file comes first.
  const ballast = join(disk, "ballast");
  await writeFile(ballast, Buffer.alloc(86 * MIB));
  const cacheDirectory = join(disk, "cache");
  const words = [...(await stage.index(layer)), "timeout=5s"];
  const mountpoint = await stage.mount(registry.reference("full"), "mnt", { cacheDirectory, words });
  const seconds = Math.max(1, stage.seconds / 3);

  const full = await stage.read(mountpoint, layer.shape, 4, seconds);
  found.readers("disk full", full);
  const status = await stage.status(mountpoint);
  found.want(status?.state === "degraded", `with a full disk the mount is ${status?.state}`);
  found.figure("problem", status?.problem ?? "none");

  // Space comes while they read.
  const readers = [5, 6, 7, 8].map((order) => stage.startReader(mountpoint, layer.shape, seconds, order));
  await rm(ballast);
  found.readers("space returns", sum(await Promise.all(readers.map(({ result }) => result))));
  await stage.unmount(mountpoint);
  await stage.ocifs("cache", "verify", "--cachedir", cacheDirectory);

  const again = await stage.mount(registry.reference("full"), "mnt", { cacheDirectory, words });
  found.readers("mounted again", await stage.read(again, layer.shape, 4, seconds));
  const after = await stage.status(again);
  found.want(after?.state === "ready", `with space again the mount is ${after?.state}: ${after?.problem}`);
  await stage.unmount(again);
  await stage.ocifs("cache", "verify", "--cachedir", cacheDirectory);
  return found.outcome();
}
