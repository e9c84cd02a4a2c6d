/**
 * A process that reserves room in a cache: `directory limitBytes bytes`. Says "reserved" or "refused", and stays until its standard
 * input ends. A limit of 0 stands for none.
 */
import { CacheDirectory } from "../../src/cache/cache-directory.js";

const [directory = "", limit = "", bytes = ""] = process.argv.slice(2);
await using cache = await CacheDirectory.open(directory, limit === "0" ? {} : { limitBytes: Number(limit) });
using room = await cache.room.reserve(Number(bytes));
process.stdout.write(room === undefined ? "refused\n" : "reserved\n");
for await (const _ of process.stdin) {
  // Until it ends.
}
