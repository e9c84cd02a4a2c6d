import { join } from "node:path";
import type { Bench } from "./bench.js";
import { programRepository } from "./program-image.js";

export const pullWords = "skopeo copy docker://REGISTRY/IMAGE oci:DIR:image; umoci unpack --image DIR:image BUNDLE";

/** Downloads the image with python3 as blobs into the directory `work`: the layout there. */
export async function pull(bench: Bench, host: string, work: string): Promise<string> {
  const layout = join(work, "layout");
  const from = `docker://${host}/${programRepository}:latest`;
  await bench.run("skopeo", ["--insecure-policy", "copy", "--src-tls-verify=false", from, `oci:${layout}:image`]);
  return layout;
}

/** Downloads and unpacks it below `work`: the root of its tree. */
export async function pullAndUnpack(bench: Bench, host: string, work: string): Promise<string> {
  const layout = await pull(bench, host, work);
  const bundle = join(work, "bundle");
  await bench.run("umoci", ["unpack", "--image", `${layout}:image`, bundle]);
  return join(bundle, "rootfs");
}
