import { readFileSync } from "node:fs";
import { OcifsError } from "./errors.js";

/** The package's version, from the package.json beside dist/. */
export const version: string = read();

function read(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8"));
  if (typeof manifest !== "object" || manifest === null || !("version" in manifest)) {
    throw new OcifsError("internal", "package.json: no version in it; install ocifs again");
  }
  return String(manifest.version);
}
