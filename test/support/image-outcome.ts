import assert from "node:assert/strict";
import { OcifsError } from "../../src/base/errors.js";
import { silentLog } from "../../src/base/log.js";
import { resolvePath } from "../../src/erofs/path-walk.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import {
  type MountableImage,
  type MountableImageOptions,
  openMountableImage,
} from "../../src/image/mountable-image.js";

/** What became of an attempt to read a whole image: not opened, some files not readable, or all of it right. */
export type Outcome = "refused" | "unreadable" | "right";

/**
 * Opens an image and reads these files through it. Anything but right bytes or an OcifsError fails the test; `what` says
 * which variant it was.
 */
export async function outcomeOf(
  options: Omit<MountableImageOptions, "insecure" | "verify"> & Partial<MountableImageOptions>,
  files: ReadonlyMap<string, Buffer>,
  what: string,
): Promise<Outcome> {
  let image: MountableImage;
  try {
    image = await openMountableImage({ insecure: true, verify: "blob", ...options }, silentLog);
  } catch (error) {
    assertClear(error, what);
    return "refused";
  }
  try {
    let unreadable = 0;
    for (const [name, want] of files) {
      const got = await readFile(image, name, want.length).catch((error: unknown) => assertClear(error, what));
      if (got === undefined) unreadable++;
      else assert.ok(got.equals(want), `${what}: ${name} has wrong bytes`);
    }
    return unreadable === 0 ? "right" : "unreadable";
  } finally {
    await image[Symbol.asyncDispose]();
  }
}

/** A file's content through the tree and the layer; stops when it is longer than it should be. */
export async function readFile(image: MountableImage, name: string, maxBytes: number): Promise<Buffer> {
  const tree = ErofsTree.of(image.tree);
  const { nid } = resolvePath(tree, Buffer.from(`/${name}`));
  const chunks: Uint8Array[] = [];
  let size = 0;
  const devices = image.layers.map((layer) => layer.device);
  for await (const chunk of tree.readFile(nid, devices)) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > maxBytes) break;
  }
  return Buffer.concat(chunks);
}

/** An error of ours with a message that is a sentence about something. */
function assertClear(error: unknown, what: string): undefined {
  if (!(error instanceof OcifsError)) throw new Error(`${what}: not an OcifsError`, { cause: error });
  assert.notEqual(error.code, "internal", `${what}: ${error.message}`);
  assert.ok(error.message.length > 20, `${what}: "${error.message}" says nothing`);
  return undefined;
}
