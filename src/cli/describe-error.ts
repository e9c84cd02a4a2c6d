import { messageOf, OcifsError } from "../base/errors.js";

/** The text of an error for a person: one sentence, or with OCIFS_DEBUG=1 the stack and its causes. */
export function describeError(error: unknown, env: NodeJS.ProcessEnv): string {
  if (env.OCIFS_DEBUG === "1" && error instanceof Error) {
    const cause = error.cause === undefined ? "" : `\ncaused by: ${describeError(error.cause, env)}`;
    return `${error.stack ?? error.message}${cause}`;
  }
  const sentence = oneSentence(messageOf(error));
  return error instanceof OcifsError && error.code !== "internal"
    ? sentence
    : `internal error: ${sentence}; run it again with OCIFS_DEBUG=1 and report what it prints`;
}

/** Without line breaks. */
export function oneSentence(text: string): string {
  return text.replace(/\s*\n\s*/g, " ").trim();
}
