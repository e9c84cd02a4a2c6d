import { OcifsError } from "../../base/errors.js";
import { listBlobs } from "../../cache/cached-blobs.js";
import { type BlobVerdict, verifyBlob } from "../../image/verify-cache.js";
import { defineCommand, jsonOption } from "../command.js";
import { printJson, type TextSink } from "../output.js";
import { cacheOption, cachePathOf, select } from "./cache-arguments.js";

interface Arguments {
  json: boolean;
  cachedir: string | undefined;
  what: string[] | undefined;
  repair: boolean;
}

/** `ocifs cache verify`: what is whole against its digest, each decoded span against the index. Damage is exit code 1. */
export const cacheVerifyCommand = defineCommand<Arguments>({
  builder: (yargs) =>
    jsonOption(cacheOption(yargs))
      .positional("what", { type: "string", array: true, describe: "Digests or images; default: everything" })
      .option("repair", {
        type: "boolean",
        default: false,
        describe: "Discard what is wrong, so that it is fetched again",
      }),
  run: async (args, { stdout, stderr, signal }) => {
    const path = cachePathOf(args);
    const words = args.what ?? [];
    const blobs = words.length === 0 ? await listBlobs(path) : (await select(path, words)).blobs;
    const verdicts: BlobVerdict[] = [];
    for (const blob of blobs) {
      const verdict = await verifyBlob(path, blob, { repair: args.repair, signal });
      verdicts.push(verdict);
      if (!args.json) printVerdict(stdout, stderr, verdict);
    }
    const wrong = verdicts.filter((each) => each.compressed === "wrong" || each.wrongSpans.length > 0);
    if (args.json) printJson(stdout, { path, repaired: args.repair, blobs: verdicts });
    if (wrong.length === 0) return;
    const what = wrong.length === 1 ? "1 blob has" : `${wrong.length} blobs have`;
    const then = args.repair ? "they were discarded" : 'run "ocifs cache verify --repair" to discard them';
    throw new OcifsError("corrupt", `cache ${path}: ${what} wrong bytes; ${then}`);
  },
});

function printVerdict(stdout: TextSink, stderr: TextSink, verdict: BlobVerdict): void {
  const { digest, compressed, spansChecked, wrongSpans, unchecked } = verdict;
  const blob = { absent: "not fetched", partial: "fetched in part, not checked", right: "right", wrong: "WRONG" };
  const spans =
    wrongSpans.length === 0 ? `${spansChecked} spans right` : `${wrongSpans.length} of ${spansChecked} spans WRONG`;
  stdout.write(`${digest}  blob ${blob[compressed]}, ${spans}\n`);
  for (const sentence of unchecked) stderr.write(`ocifs: ${digest}: not checked: ${sentence}\n`);
}
