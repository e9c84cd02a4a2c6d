import { OcifsError } from "../../base/errors.js";
import { defineCommand } from "../command.js";
import { cacheOption, cachePathOf, select, setPinned } from "./cache-arguments.js";

interface Arguments {
  cachedir: string | undefined;
  what: string[];
}

/** `ocifs cache pin` and `ocifs cache unpin`: what is pinned is neither evicted nor dropped. */
export const [cachePinCommand, cacheUnpinCommand] = [true, false].map((pinned) =>
  defineCommand<Arguments>({
    builder: (yargs) =>
      cacheOption(yargs).positional("what", {
        type: "string",
        array: true,
        demandOption: true,
        describe: "Digests or images",
      }),
    run: async (args) => {
      const path = cachePathOf(args);
      const { blobs, digests } = await select(path, args.what);
      const missing = digests.filter((digest) => !blobs.some((blob) => blob.digest === digest));
      if (missing.length > 0) throw new OcifsError("not-found", `not in the cache ${path}: ${missing.join(", ")}`);
      for (const blob of blobs) await setPinned(blob, pinned);
    },
  }),
) as [ReturnType<typeof defineCommand>, ReturnType<typeof defineCommand>];
