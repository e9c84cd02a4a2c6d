import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { MountStatus } from "../../../src/daemon/status.js";
import { ContainerdSandbox, type RunningContainer } from "../../support/containerd.js";
import type { Bench } from "../bench.js";
import { atLeast, type Figure, Pairs } from "../figures.js";
import { programRepository } from "../program-image.js";
import { linkWords } from "../shaped-link.js";

const command = ["/usr/bin/python3", "-c", 'import json,ssl; print("ready")'] as const;

interface Measured {
  /** From the start of the pull to the first line of the container's output. */
  readonly coldMs: number;
  /** From the start of `ctr run` to the same of a second container. */
  readonly secondMs: number;
  readonly fetchedBytes: number;
}

/** A container of the image with python3 over the slow link: ours beside containerd's own snapshotter, both cold. */
export async function containerdStart(bench: Bench): Promise<Figure[]> {
  const [cold, second, bytes] = [new Pairs(), new Pairs(), new Pairs()];
  for (let i = 0; i < bench.repeats; i++) {
    bench.say(`containerd, ${linkWords.shaped}, ${i + 1} of ${bench.repeats}`);
    const ours = await measure(bench, "ocifs");
    const theirs = await measure(bench, "overlayfs");
    cold.add(ours.coldMs, theirs.coldMs);
    second.add(ours.secondMs, theirs.secondMs);
    bytes.add(ours.fetchedBytes, theirs.fetchedBytes);
  }
  const workload = "containerd";
  const referenceName = "overlayfs snapshotter";
  const run = "ctr run IMAGE ID python3 -c 'import json,ssl; print(\"ready\")'";
  const pulled = `ocifs pull IMAGE; ${run}; beside ctr images pull IMAGE; ${run}`;
  const name = (what: string) => `${linkWords.shaped}, ${what}`;
  return [
    cold.toFigure(
      "time",
      { workload, name: name("cold, pull included, to the first output"), unit: "ms", command: pulled, referenceName },
      atLeast(1),
    ),
    bytes.toFigure("size", {
      workload,
      name: name("cold, bytes of layers"),
      unit: "bytes",
      command: pulled,
      referenceName,
    }),
    second.toFigure("time", { workload, name: "a second container", unit: "ms", command: run, referenceName }),
  ];
}

async function measure(bench: Bench, snapshotter: "ocifs" | "overlayfs"): Promise<Measured> {
  const image = await bench.program();
  const host = await bench.hostOver("shaped");
  const reference = `${host}/${programRepository}:latest`;
  const [cache, parent] = [await image.coldCache(), await bench.freshDirectory("c")];
  let measured: Measured;
  {
    await using sandbox = await ContainerdSandbox.open([host], { cache, parent });
    await bench.dropCaches();
    const beginMs = performance.now();
    if (snapshotter === "ocifs") {
      const { status, stderr } = await sandbox.ocifsPull(reference);
      if (status !== 0) throw new Error(`ocifs pull: ${stderr}`);
    } else {
      const pull = ["images", "pull", "--plain-http", "--snapshotter", snapshotter, reference];
      await sandbox.ctrOut("--namespace", "default", ...pull);
    }
    await ready(sandbox.run(reference, command, { snapshotter, namespace: "default" }));
    const coldMs = performance.now() - beginMs;
    const fetchedBytes = snapshotter === "ocifs" ? await fetchedByOcifs(sandbox) : await fetchedByContainerd(sandbox);
    const againMs = performance.now();
    await ready(sandbox.run(reference, command, { snapshotter, namespace: "default" }));
    measured = { coldMs, secondMs: performance.now() - againMs, fetchedBytes };
  }
  await bench.discard(cache, parent);
  return measured;
}

/** The first line, which is also the last. */
async function ready(container: RunningContainer): Promise<void> {
  const line = await container.firstLine;
  if (line !== "ready") throw new Error(`the container said "${line}"`);
  await container.end;
}

async function fetchedByOcifs(sandbox: ContainerdSandbox): Promise<number> {
  const { mounts } = JSON.parse(await sandbox.ocifsOut("status", "--json")) as { mounts: MountStatus[] };
  if (mounts.length !== 1 || mounts[0]?.errors !== 0)
    throw new Error(`want one mount without errors: ${mounts.length}`);
  return mounts[0].bytesFetched;
}

/** All that is in its content store; manifest and config are a few hundred bytes of it. */
async function fetchedByContainerd(sandbox: ContainerdSandbox): Promise<number> {
  const blobs = join(sandbox.directory, "containerd", "io.containerd.content.v1.content", "blobs", "sha256");
  const sizes = (await readdir(blobs)).map(async (name) => (await stat(join(blobs, name))).size);
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}
