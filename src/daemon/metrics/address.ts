import { isIP } from "node:net";
import { OcifsError } from "../../base/errors.js";

/** Where metrics are offered: loopback only, since they name images and mountpoints. */
export interface MetricsAddress {
  readonly host: string;
  /** 0: any free one, which the log names. */
  readonly port: number;
}

/** `127.0.0.1:9464`, `[::1]:9464`, `localhost:9464`. Throws `usage` for anything else. */
export function parseMetricsAddress(text: string, key: string): MetricsAddress {
  const [, bracketed, plain, port = ""] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain ?? "";
  const loopback = host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
  if (!loopback || Number(port) > 65535) {
    throw new OcifsError(
      "usage",
      `${key}: got "${text}", want an address of this machine's own, such as 127.0.0.1:9464`,
    );
  }
  return { host, port: Number(port) };
}
