import { type BlobReport, describeBlob } from "../../cache/blob-report.js";
import { listBlobs } from "../../cache/cached-blobs.js";
import { CachedImages } from "../../cache/cached-images.js";
import { defineCommand, jsonOption } from "../command.js";
import { printJson, printTable } from "../output.js";
import { formatSize } from "../units.js";
import { cacheOption, cachePathOf } from "./cache-arguments.js";

type Row = BlobReport & { readonly images: readonly string[] };

/** `ocifs cache ls`: the blobs of the cache, least recently used first, which is the order of eviction. */
export const cacheLsCommand = defineCommand<{ json: boolean; cachedir: string | undefined }>({
  builder: (yargs) => jsonOption(cacheOption(yargs)),
  run: async (args, { stdout }) => {
    const path = cachePathOf(args);
    const images = await CachedImages.read(path);
    const rows: Row[] = [];
    for (const blob of await listBlobs(path)) {
      const users = images.usersOf(blob.digest).flatMap(({ names, digest }) => (names.length > 0 ? names : [digest]));
      rows.push({ ...(await describeBlob(blob)), images: [...new Set(users)] });
    }
    if (args.json) {
      printJson(stdout, { path, blobs: rows });
      return;
    }
    printTable(
      stdout,
      [
        { title: "BLOB" },
        { title: "SIZE", align: "right" },
        { title: "FETCHED", align: "right" },
        { title: "DECODED", align: "right" },
        { title: "ON DISK", align: "right" },
        { title: "VERIFIED" },
        { title: "USE" },
        { title: "LAST USED" },
        { title: "IMAGES" },
      ],
      rows.map((row) => [
        row.digest,
        row.blobBytes === null ? "-" : formatSize(row.blobBytes),
        percent(row.fetchedBytes, row.blobBytes ?? 0),
        percent(row.presentSpans, row.spans),
        formatSize(row.allocatedBytes),
        row.verified.map((name) => name.replace(/-.*/, "")).join(",") || "-",
        [row.inUse ? "in use" : "", row.pinned ? "pinned" : ""].filter((word) => word !== "").join(",") || "-",
        row.lastUsed?.slice(0, 19) ?? "-",
        row.images.join(",") || "-",
      ]),
    );
  },
});

function percent(part: number, whole: number): string {
  return whole === 0 ? "-" : `${Math.floor((100 * part) / whole)}%`;
}
