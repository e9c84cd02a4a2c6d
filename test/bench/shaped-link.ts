import { once } from "node:events";
import { existsSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { sharedTool } from "../support/fixtures.js";
import { startProcess } from "../support/process.js";
import { Skipped } from "./figures.js";

/** Over which link a registry is reached: directly, or at 40 ms and 100 Mbit/s. */
export type LinkName = "loopback" | "shaped";

export const linkWords: Readonly<Record<LinkName, string>> = {
  loopback: "loopback",
  shaped: "40 ms, 100 Mbit/s",
};

const roundTripMs = 40;
const megabits = 100;

export interface ShapedLink extends AsyncDisposable {
  /** `127.0.0.1:PORT`: what is there is `target`, far away. */
  readonly host: string;
}

/** Puts a slow link in front of `target` (HOST:PORT). `Skipped` without the tool, which lies beside the repository. */
export async function startShapedLink(target: string, mbit = megabits): Promise<ShapedLink> {
  const tool = sharedTool("shaped-link.py");
  if (!existsSync(tool)) throw new Skipped(`there is no ${tool}, which makes the slow link`);
  const port = await freePort();
  const words = [tool, String(port), target, "--rtt-ms", String(roundTripMs), "--mbit", String(mbit)];
  const link = await startProcess("python3", words, /^ready$/);
  return { host: `127.0.0.1:${port}`, [Symbol.asyncDispose]: () => link.stop() };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
