/** `proxy-crowd.js URL COUNT STALLED`: so many clients at once, and so many that never read; prints a CrowdResult. */
import { runCrowd } from "./workloads/proxy.js";

const [url = "", count = "", stalled = ""] = process.argv.slice(2);
process.stdout.write(JSON.stringify(await runCrowd(url, Number(count), Number(stalled))));
