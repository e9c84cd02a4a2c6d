import { makeLayer } from "../content.js";
import { type Lifetimes, TortureRegistry } from "../registry.js";
import type { Stage } from "../stage.js";
import { Findings, type Outcome } from "../verdict.js";

const LIFETIME_MS = 3000;

/** Tokens, then redirect targets, that live for three seconds, under readers that may see no error. */
export async function expiry(stage: Stage): Promise<Outcome> {
  const found = new Findings();
  const layer = makeLayer({ seed: 31, files: 6, fileBytes: 3 << 20 });
  const words = [...(await stage.index(layer)), "cachesize=8M", "timeout=5s", "onerror=eio"];
  const kinds: Readonly<Record<string, Lifetimes>> = {
    "tokens and URLs that say when": { tokenMs: LIFETIME_MS, urlMs: LIFETIME_MS, urlTells: true },
    "URLs that do not say": { urlMs: LIFETIME_MS },
  };
  // At the same time: most of it is waiting.
  const runs = Object.entries(kinds).map(async ([name, lifetimes], i) => {
    const registry = await TortureRegistry.start(new Map([["expiring", layer]]), lifetimes);
    stage.defer(() => registry[Symbol.asyncDispose]());
    const cacheDirectory = `${stage.cacheDirectory}-${i}`;
    const mountpoint = await stage.mount(registry.reference("expiring"), `mnt-${i}`, { words, cacheDirectory });
    const result = await stage.read(mountpoint, layer.shape, 4, Math.max(4, stage.seconds));
    await stage.unmount(mountpoint);
    found.readers(name, result);
    const { tokensIssued, urlsIssued, expired } = registry;
    found.figure(`${name}: issued`, `${tokensIssued} tokens, ${urlsIssued} URLs`);
    found.figure(`${name}: requests refused as expired`, expired);
    found.want(tokensIssued > 1 || urlsIssued > 1, `${name}: nothing expired`);
  });
  await Promise.all(runs);
  return found.outcome();
}
