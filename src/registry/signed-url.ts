/**
 * When a pre-signed URL stops working, in ms since the epoch; undefined when it does not say. Known: AWS Signature V4
 * (`X-Amz-Date` + `X-Amz-Expires`) and its Google twin, AWS V2 and CloudFront (`Expires`), Azure SAS (`se`).
 */
export function expiryOf(url: URL): number | undefined {
  const parameters = new Map([...url.searchParams].map(([name, value]) => [name.toLowerCase(), value]));
  for (const vendor of ["amz", "goog"]) {
    const signedMs = parseBasicIsoDate(parameters.get(`x-${vendor}-date`));
    const lifetime = parameters.get(`x-${vendor}-expires`);
    if (signedMs !== undefined && lifetime !== undefined && /^\d{1,7}$/.test(lifetime)) {
      return signedMs + Number(lifetime) * 1000;
    }
  }
  const expires = parameters.get("expires");
  if (expires !== undefined && /^\d{9,11}$/.test(expires)) return Number(expires) * 1000;
  const sasExpiry = Date.parse(parameters.get("se") ?? "");
  return Number.isNaN(sasExpiry) ? undefined : sasExpiry;
}

/** `20260131T235959Z`. */
function parseBasicIsoDate(text: string | undefined): number | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text ?? "");
  if (match === null) return undefined;
  const [, year, month, day, hour, minute, second] = match;
  const ms = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(ms) ? undefined : ms;
}
