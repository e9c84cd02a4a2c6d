import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { connect as connectHttp2, type Settings } from "node:http2";
import { connect } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type Client, credentials, makeClientConstructor, type ServiceError, status } from "@grpc/grpc-js";
import { limits } from "../../src/base/limits.js";
import { silentLog } from "../../src/base/log.js";
import { loadSnapshotsService } from "../../src/snapshotter/api.js";
import type { ImageMounts, MountedImage } from "../../src/snapshotter/image-mounts.js";
import { type LazyImages, snapshotLabels } from "../../src/snapshotter/lazy-images.js";
import { serveSnapshotter } from "../../src/snapshotter/server.js";
import { SnapshotExistsError } from "../../src/snapshotter/snapshot-error.js";
import type { LazyLayer } from "../../src/snapshotter/snapshot-record.js";
import { SnapshotStore } from "../../src/snapshotter/snapshot-store.js";
import { Snapshotter } from "../../src/snapshotter/snapshotter.js";
import { rejectsWith } from "../support/errors.js";
import { tempDirectory } from "../support/temp.js";

/** Mounts that are directories. */
class FakeMounts implements ImageMounts {
  readonly mounted = new Set<string>();
  /** Mounts that are being made wait for it. */
  gate: Promise<unknown> = Promise.resolve();
  atOnce = 0;
  mostAtOnce = 0;
  fails = false;

  constructor(readonly root: string) {}

  directoryOf({ manifest, layerCount }: MountedImage): string {
    return join(this.root, `${manifest.slice(7, 19)}-${layerCount}`);
  }

  async mount(image: MountedImage): Promise<string> {
    this.atOnce++;
    this.mostAtOnce = Math.max(this.mostAtOnce, this.atOnce);
    await this.gate;
    this.atOnce--;
    if (this.fails) throw new Error("no network");
    const directory = this.directoryOf(image);
    await mkdir(directory, { recursive: true });
    this.mounted.add(directory);
    return directory;
  }

  async unmount(directory: string): Promise<void> {
    this.mounted.delete(directory);
  }

  async list(): Promise<string[]> {
    return [...this.mounted];
  }
}

function lazyLayer(image: number, layer: number): LazyLayer {
  const manifest = `sha256:${String(image).padStart(64, "0")}` as const;
  return { source: `registry.example/app@${manifest}`, manifest, layer, layers: 2, blob: manifest };
}

const labelsOf = (chainId: string, image = "app:v1") => ({
  [snapshotLabels.ref]: chainId,
  [snapshotLabels.imageRef]: image,
});

async function open(t: TestContext, images: Partial<LazyImages>, root?: string) {
  const directory = root ?? (await tempDirectory(t));
  const mounts = new FakeMounts(join(directory, "mounts"));
  const store = await SnapshotStore.open(join(directory, "records"), silentLog);
  const { signal } = new AbortController();
  const options = { root: directory, cachePath: join(directory, "cache"), store, mounts, log: silentLog, signal };
  const snapshotter = new Snapshotter({ ...options, images: images as LazyImages });
  return { directory, mounts, store, snapshotter };
}

const twoLayers: Partial<LazyImages> = { layerOf: async (chainId) => lazyLayer(1, chainId === "chain0" ? 0 : 1) };

test("a layer that can be mounted exists; what lies on it is an overlay on one mount", async (t) => {
  const { directory, mounts, snapshotter } = await open(t, twoLayers);
  await snapshotter.restore();
  await assert.rejects(snapshotter.prepare("extract-1", "", labelsOf("chain0")), SnapshotExistsError);
  await assert.rejects(snapshotter.prepare("extract-2", "chain0", labelsOf("chain1")), SnapshotExistsError);
  assert.deepEqual([...mounts.mounted], [join(directory, "mounts", "000000000000-2")]);
  assert.equal(snapshotter.stat("chain1").labels[snapshotLabels.ref], "chain1");
  await rejectsWith(snapshotter.mounts("chain1"), "busy");

  const [overlay] = await snapshotter.prepare("box", "chain1", {});
  assert.equal(overlay?.type, "overlay");
  assert.ok(overlay?.options.includes(`lowerdir=${directory}/mounts/000000000000-2`));
  assert.deepEqual(await snapshotter.mounts("box"), [overlay]);
  const [view] = await snapshotter.view("look", "chain0", {});
  assert.deepEqual(view, { type: "bind", source: `${directory}/mounts/000000000000-1`, options: ["ro", "rbind"] });

  await rejectsWith(snapshotter.remove("chain1"), "busy");
  for (const name of ["look", "box", "chain1", "chain0"]) await snapshotter.remove(name);
  await snapshotter.collected();
  assert.deepEqual([...mounts.mounted], []);
});

test("a layer that cannot be mounted gets a place to be unpacked to, and has the size of it", async (t) => {
  const { directory, mounts, snapshotter } = await open(t, twoLayers);
  await snapshotter.restore();
  mounts.fails = true;
  const [bind] = await snapshotter.prepare("extract-1", "", labelsOf("chain0"));
  assert.deepEqual(bind, { type: "bind", source: `${directory}/snapshots/1/fs`, options: ["rw", "rbind"] });
  await writeFile(join(bind?.source ?? "", "file"), Buffer.alloc(100_000, 1));
  await snapshotter.commit("ns/1/chain0", "extract-1", { more: "labels" });
  const usage = await snapshotter.usage("ns/1/chain0");
  assert.ok(usage.bytes >= 100_000 && usage.inodes === 2, JSON.stringify(usage));
  const [overlay] = await snapshotter.prepare("box", "ns/1/chain0", {});
  assert.ok(overlay?.options.includes(`lowerdir=${directory}/snapshots/1/fs`));
  const updated = await snapshotter.update("box", { a: "1", b: "2" }, ["labels.a"]);
  assert.deepEqual(updated.labels, { a: "1" });
  await rejectsWith(snapshotter.update("box", {}, ["parent"]), "usage");
});

test("a mount that cannot be restored makes its snapshots unavailable, not wrong", async (t) => {
  const { mounts, snapshotter } = await open(t, twoLayers);
  await snapshotter.restore();
  await assert.rejects(snapshotter.prepare("extract-1", "", labelsOf("chain0")), SnapshotExistsError);
  mounts.fails = true;
  await rejectsWith(snapshotter.prepare("box", "chain0", {}), "network");
  assert.deepEqual(
    snapshotter.list().map(({ name }) => name),
    ["chain0"],
  );
});

test("after a start a few mounts are made at a time", async (t) => {
  const first = await open(t, {});
  const images = 2 * limits.snapshotMountsAtOnce;
  for (let i = 1; i <= images; i++) {
    const lazy = { ...lazyLayer(i, 0), manifest: `sha256:${String(i).padStart(12, "0")}${"0".repeat(52)}` as const };
    const times = { createdMs: 0, updatedMs: 0 };
    const names = { id: String(i), name: `chain${i}`, parent: "" };
    await first.store.create({ ...names, kind: "committed", labels: {}, ...times, lazy });
  }
  const { mounts, snapshotter } = await open(t, {}, first.directory);
  let release: () => void = () => undefined;
  mounts.gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  await snapshotter.restore();
  assert.equal(mounts.atOnce, limits.snapshotMountsAtOnce);
  release();
  while (mounts.mounted.size < images) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(mounts.mostAtOnce, limits.snapshotMountsAtOnce);
});

test("an image that was refused is not tried again at once; so many of them are remembered", async (t) => {
  const asked: string[] = [];
  const layerOf = async (_: string, labels: Readonly<Record<string, string>>) => {
    asked.push(labels[snapshotLabels.imageRef] ?? "");
    throw new Error("not an image for us");
  };
  const { snapshotter } = await open(t, { layerOf });
  await snapshotter.restore();
  let count = 0;
  const prepare = (image: number) => snapshotter.prepare(`e${count++}`, "", labelsOf("chain", `app${image}`));
  for (let i = 0; i <= limits.snapshotImages; i++) await prepare(i);
  await prepare(limits.snapshotImages);
  assert.equal(asked.length, limits.snapshotImages + 1);
  await prepare(0);
  assert.equal(asked.at(-1), "app0");
});

test("the socket takes requests of a bounded size and number, and answers with containerd's codes", async (t) => {
  const directory = await tempDirectory(t);
  const address = join(directory, "s.sock");
  const stop = new AbortController();
  const serve = (root: string, onReady: () => void) =>
    serveSnapshotter(
      {
        root: join(directory, root),
        address,
        mount: {
          driver: "auto",
          cacheDir: join(directory, "cache"),
          onError: "eio",
          timeoutMs: 1000,
          prefetch: "none",
          profile: "on",
          verify: "blob",
          allowOther: false,
          flags: {} as never,
          securityOptions: [],
          log: { level: "error" },
        },
        isInsecure: () => false,
        log: silentLog,
        signal: stop.signal,
      },
      onReady,
    );
  let served: Promise<void> | undefined;
  await new Promise<void>((resolve, reject) => {
    served = serve("root", resolve);
    served.catch(reject);
  });
  t.after(async () => {
    stop.abort();
    await served;
  });
  await rejectsWith(serve("root", assert.fail), "busy");
  await rejectsWith(serve("other", assert.fail), "busy");

  const Service = makeClientConstructor(loadSnapshotsService(), "Snapshots");
  const client: Client = new Service(`unix:${address}`, credentials.createInsecure());
  t.after(() => client.close());
  type Unary = (request: object, done: (error: ServiceError | null) => void) => void;
  const codeOf = (method: string, request: object) =>
    new Promise<number>((resolve) => {
      const unary = (client as unknown as Record<string, Unary>)[method];
      unary?.call(client, request, (error) => resolve(error?.code ?? status.OK));
    });
  assert.equal(await codeOf("Stat", { key: "nobody" }), status.NOT_FOUND);
  assert.equal(await codeOf("Prepare", { key: "box" }), status.OK);
  assert.equal(await codeOf("Prepare", { key: "box" }), status.ALREADY_EXISTS);
  assert.equal(await codeOf("View", { key: "on", parent: "box" }), status.INVALID_ARGUMENT);
  assert.equal(await codeOf("Usage", { key: "box" }), status.OK);
  assert.equal(await codeOf("Commit", { key: "box", name: "layer", parent: "other" }), status.UNIMPLEMENTED);
  assert.equal(await codeOf("Remove", { key: "box" }), status.OK);
  assert.equal(await codeOf("Cleanup", {}), status.OK);
  const huge = "x".repeat(limits.snapshotRequestBytes);
  assert.equal(await codeOf("Stat", { key: huge }), status.RESOURCE_EXHAUSTED);

  const session = connectHttp2("http://localhost", { createConnection: () => connect(address) });
  const [settings] = (await once(session, "remoteSettings")) as [Settings];
  // Before the server ends, which would be an error of the session.
  session.destroy();
  assert.equal(settings.maxConcurrentStreams, limits.snapshotRequests);
});
