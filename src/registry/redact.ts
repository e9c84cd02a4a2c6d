/** Query parameters whose values hold no secret. Every other value of a URL is cut: signatures have many names. */
const shownParameters: ReadonlySet<string> = new Set([
  "scope",
  "service",
  "n",
  "last",
  "ns",
  "digest",
  "x-amz-algorithm",
  "x-amz-date",
  "x-amz-expires",
  "x-amz-signedheaders",
  "x-goog-algorithm",
  "x-goog-date",
  "x-goog-expires",
  "x-goog-signedheaders",
  "expires",
  "se",
  "sp",
]);

const cut = "REDACTED";

/** A URL for messages and logs: no user, password or fragment, and only query values known to be harmless. */
export function redactUrl(url: URL | string): string {
  let shown: URL;
  try {
    shown = new URL(url);
  } catch {
    // Text that does not parse cannot be cut safely, and a message must not fail because of it.
    return "(malformed URL)";
  }
  shown.username = "";
  shown.password = "";
  shown.hash = "";
  for (const name of new Set(shown.searchParams.keys())) {
    if (!shownParameters.has(name.toLowerCase())) shown.searchParams.set(name, cut);
  }
  return shown.href;
}

/**
 * Text from a server or file, fit for a one-line message: control characters replaced (a terminal would obey them), cut to
 * `maxLength`, and every given secret removed, in case the server echoes what was sent to it.
 */
export function cleanText(text: string, maxLength: number, secrets: readonly string[] = []): string {
  let clean = text;
  for (const secret of secrets) {
    if (secret.length >= 4) clean = clean.replaceAll(secret, cut);
  }
  clean = clean.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ").trim();
  return clean.length > maxLength ? `${clean.slice(0, maxLength)}…` : clean;
}
