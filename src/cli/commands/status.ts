import { OcifsError } from "../../base/errors.js";
import { callAllDaemons } from "../../daemon/control.js";
import { runtimeDirectory } from "../../daemon/runtime-directory.js";
import type { DaemonStatus, MountStatus } from "../../daemon/status.js";
import { defineCommand, jsonOption } from "../command.js";
import { printJson, printTable, type TextSink } from "../output.js";
import { formatSize } from "../units.js";

/** `ocifs status`: the mounts of this user and how they are doing. */
export const statusCommand = defineCommand<{ json: boolean }>({
  builder: (yargs) => jsonOption(yargs),
  run: async (args, { stdout }) => {
    const { answers, failures } = await callAllDaemons(runtimeDirectory(), "status");
    const mounts = (answers as DaemonStatus[]).flatMap((each) => each.mounts);
    if (args.json) printJson(stdout, { mounts });
    else if (mounts.length > 0) printMounts(stdout, mounts);
    else if (failures.length === 0) stdout.write("no mounts\n");
    // What is known was told; the exit code says that it is not all.
    const [first] = failures;
    if (first) throw new OcifsError(first.code, failures.map((failure) => failure.message).join("; "));
  },
});

function printMounts(stdout: TextSink, mounts: readonly MountStatus[]): void {
  printTable(
    stdout,
    [
      { title: "MOUNTPOINT" },
      { title: "SOURCE" },
      { title: "DRIVER" },
      { title: "STATE" },
      { title: "FETCHED", align: "right" },
      { title: "OF", align: "right" },
      { title: "SPANS", align: "right" },
      { title: "COMPLETE", align: "right" },
      { title: "HITS", align: "right" },
      { title: "ERRORS", align: "right" },
    ],
    mounts.map((mount) => [
      mount.mountpoint,
      mount.source,
      mount.driver,
      mount.state,
      formatSize(mount.bytesFetched),
      formatSize(mount.bytesTotal),
      `${mount.layers.reduce((sum, l) => sum + l.cachedSpans, 0)}/${mount.layers.reduce((sum, l) => sum + l.spans, 0)}`,
      `${mount.layers.filter((l) => l.complete).length}/${mount.layers.length}`,
      mount.hitRatio === null ? "-" : `${Math.floor(100 * mount.hitRatio)}%`,
      String(mount.errors),
    ]),
  );
  for (const mount of mounts) {
    if (mount.problem !== null) {
      stdout.write(`${mount.mountpoint}: degraded since ${mount.degradedSince}: ${mount.problem}\n`);
    }
    for (const { digest, fill } of mount.layers) {
      if (fill.state === "off" || (fill.state === "done" && fill.reason === null)) continue;
      const what = [fill.state, fill.bytesLeft > 0 ? `${formatSize(fill.bytesLeft)} to fetch` : "", fill.reason ?? ""];
      stdout.write(`${mount.mountpoint}: layer ${digest}: ${what.filter((part) => part !== "").join(", ")}\n`);
    }
  }
}
