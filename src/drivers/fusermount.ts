import { spawn } from "node:child_process";
import { close } from "node:fs";
import { OcifsError } from "../base/errors.js";
import { openSocketPair, receiveFd } from "../native/fuse.js";
import type { MountRequest } from "./driver.js";
import { setFlags } from "./mount-flags.js";

/** fusermount3 mounts for ordinary users and passes the descriptor over the socket named in _FUSE_COMMFD. */
export async function mountThroughFusermount(request: Omit<MountRequest, "tree" | "onMiss">): Promise<number> {
  const [ours, theirs] = openSocketPair();
  try {
    const options = [
      "ro",
      "nosuid",
      "nodev",
      "default_permissions",
      "subtype=ocifs",
      `fsname=${request.sourceName.replaceAll(/[\\,]/g, (c) => `\\${c}`)}`,
      // Of the others fusermount3 knows none, and nosuid and nodev it insists on.
      ...setFlags(request.flags).filter((flag) => flag === "noexec" || flag === "noatime"),
      ...(request.allowOther ? ["allow_other"] : []),
    ];
    const child = spawn("fusermount3", ["-o", options.join(","), "--", request.mountpoint], {
      stdio: ["ignore", "ignore", "pipe", theirs],
      env: { ...process.env, _FUSE_COMMFD: "3" },
    });
    close(theirs, () => undefined);
    const stderr: Buffer[] = [];
    child.stderr?.on("data", (chunk: Buffer) => stderr.push(chunk));
    const exited = new Promise<number>((resolve, reject) => {
      child.once("error", (error) =>
        reject(
          new OcifsError("io", `fusermount3: ${error.message}; install fuse3 to mount without root`, { cause: error }),
        ),
      );
      child.once("close", (code) => resolve(code ?? 1));
    });
    const [fd, code] = await Promise.all([receiveFd(ours).catch(() => -1), exited]);
    if (code !== 0 || fd < 0) {
      const said = Buffer.concat(stderr).toString().trim().split("\n")[0];
      throw new OcifsError("io", `fusermount3 could not mount ${request.mountpoint}: ${said || `exit code ${code}`}`);
    }
    return fd;
  } finally {
    close(ours, () => undefined);
  }
}
