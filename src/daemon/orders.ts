import type { Readable } from "node:stream";
import { OcifsError } from "../base/errors.js";
import type { TagAnswer } from "../image/tag-answer.js";
import { parseDigest } from "../oci/digest.js";
import type { MountConfig } from "./mount-config.js";

/** What the mount helper tells the daemon on its standard input, a JSON line each; see launch.ts. */
export interface Orders {
  readonly config: Promise<MountConfig>;
  /** What came of asking the registry while the daemon started; undefined when the helper did not ask, or is gone. */
  readonly tagAnswer: Promise<TagAnswer | undefined>;
}

export function readOrders(input: Readable): Orders {
  const lines = readLines(input);
  const config = lines.next().then(({ value }) => {
    if (value === undefined)
      throw new OcifsError("usage", "the daemon is started by mount.ocifs, which tells it what to mount");
    return JSON.parse(value) as MountConfig;
  });
  const tagAnswer = lines.next().then(({ value }) => (value === undefined ? undefined : parseTagAnswer(value)));
  // It is awaited late or not at all; who awaits it hears of the failure.
  tagAnswer.catch(() => undefined);
  return { config, tagAnswer };
}

function parseTagAnswer(line: string): TagAnswer | undefined {
  const answer = JSON.parse(line) as TagAnswer | null;
  if (answer?.kind === "digest") return { kind: "digest", digest: parseDigest(answer.digest) };
  return answer ?? undefined;
}

/** Lines, without their ends; what follows the last end counts as one unless it is empty. */
async function* readLines(input: Readable): AsyncGenerator<string, undefined> {
  let rest = "";
  input.setEncoding("utf8");
  for await (const chunk of input) {
    const lines = `${rest}${chunk}`.split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  if (rest !== "") yield rest;
  return undefined;
}
