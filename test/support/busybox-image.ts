import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { writeLayout } from "./layout.js";
import { buildTar, type TarItem } from "./tar-builder.js";

const directory = (path: string, more: Partial<TarItem> = {}): TarItem => ({
  path: `${path}/`,
  typeflag: "5",
  mode: 0o755,
  ...more,
});
const file = (path: string, data: Uint8Array | string, mode = 0o644): TarItem => ({
  path,
  data: Buffer.from(data),
  mode,
});

/** An OCI layout `image` below `parent` with Debian's static busybox, users and a volume; returns its SOURCE. `users` are more lines of passwd. */
export async function writeBusyboxImage(
  parent: string,
  run: Readonly<Record<string, unknown>>,
  users = "",
): Promise<string> {
  const tar = buildTar([
    ...["bin", "etc", "proc", "dev", "sys", "srv"].map((path) => directory(path)),
    directory("data", { mode: 0o750, uid: 1000, gid: 1001 }),
    file("bin/busybox", await readFile("/bin/busybox"), 0o755),
    ...["sh", "id", "ls", "cat", "sleep", "touch", "stat"].map(
      (name): TarItem => ({ path: `bin/${name}`, typeflag: "2", linkPath: "busybox" }),
    ),
    file("etc/passwd", `root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n${users}`),
    file("etc/group", "root:x:0:\nwheel:x:27:app\napp:x:1001:\n"),
  ]);
  const path = join(parent, "image");
  const layer = { bytes: gzipSync(tar, { level: 1 }), mediaType: mediaTypes.ociLayerGzip, diffId: digestOfBytes(tar) };
  await writeLayout(path, [{ layers: [layer], tag: "latest", run }]);
  return `oci:${path}:latest`;
}
