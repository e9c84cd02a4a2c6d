import { rm } from "node:fs/promises";
import { OcifsError } from "../../base/errors.js";
import { digestsIn, isInUse, listBlobs, removeBlob } from "../../cache/cached-blobs.js";
import { CachedImages } from "../../cache/cached-images.js";
import { removeIndex } from "../../cache/collect.js";
import type { Digest } from "../../oci/digest.js";
import { defineCommand, jsonOption } from "../command.js";
import { printJson } from "../output.js";
import { formatSize } from "../units.js";
import { cacheOption, cachePathOf, type Selection, select } from "./cache-arguments.js";

interface Arguments {
  json: boolean;
  cachedir: string | undefined;
  what: string[] | undefined;
  all: boolean;
}

/** `ocifs cache drop`: removes blobs with their indexes, and images with the layers that no other image in the cache has. */
export const cacheDropCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    jsonOption(cacheOption(yargs))
      .positional("what", { type: "string", array: true, describe: "Digests or images" })
      .option("all", { type: "boolean", default: false, describe: "Everything" }),
  run: async (args, { stdout, signal }) => {
    const path = cachePathOf(args);
    const words = args.what ?? [];
    if (args.all === words.length > 0) throw new OcifsError("usage", "cache drop: name what to drop, or say --all");
    const known = await CachedImages.read(path);
    const chosen = args.all ? await everything(path, known) : await select(path, words);
    const gone = new Set(chosen.images.map((image) => image.digest));
    const shared = (digest: Digest) =>
      chosen.images.some((image) => image.layers.includes(digest)) &&
      known.usersOf(digest).some((image) => !gone.has(image.digest));
    const digests = chosen.digests.filter((digest) => words.includes(digest) || !shared(digest));
    const blobs = chosen.blobs.filter(({ digest }) => digests.includes(digest));
    const busy: Digest[] = [];
    for (const blob of blobs) if (blob.pinned || (await isInUse(blob.path))) busy.push(blob.digest);
    if (busy.length > 0 && !args.all) {
      throw new OcifsError("busy", `cache drop: in use or pinned, nothing was removed: ${busy.join(", ")}`);
    }
    let freedBytes = 0;
    const dropped: Digest[] = [];
    for (const digest of digests) {
      if (signal.aborted) throw new OcifsError("aborted", "cache drop: cancelled");
      if (busy.includes(digest)) continue;
      const blob = blobs.find((each) => each.digest === digest);
      const bytes = blob === undefined ? 0 : await removeBlob(blob.path, "all");
      if (bytes === undefined) {
        busy.push(digest);
        continue;
      }
      freedBytes += bytes;
      dropped.push(digest);
      await removeIndex(path, digest);
    }
    const free = chosen.images.filter((image) => !image.layers.some((layer) => busy.includes(layer)));
    for (const record of known.recordsOf(path, free)) await rm(record, { recursive: true, force: true });
    if (args.json)
      printJson(stdout, { path, dropped, kept: busy, images: free.map(({ digest }) => digest), freedBytes });
    else stdout.write(`${dropped.length} blobs dropped, ${formatSize(freedBytes)}\n`);
    if (busy.length > 0) throw new OcifsError("busy", `cache drop: in use or pinned, and kept: ${busy.join(", ")}`);
  },
});

async function everything(path: string, known: CachedImages): Promise<Selection> {
  const blobs = await listBlobs(path);
  const digests = new Set([...blobs.map(({ digest }) => digest), ...(await digestsIn(path, "indexes"))]);
  return { blobs, digests: [...digests], images: known.images };
}
