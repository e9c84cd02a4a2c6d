import { OcifsError } from "../base/errors.js";

/** One word of `-o`: `key` or `key=value`. `raw` is the word as it stood, quotes included. */
export interface OptionWord {
  readonly key: string;
  readonly value?: string;
  readonly raw: string;
}

/**
 * Splits the argument of `-o` at commas the way mount(8) does: a comma inside double quotes or behind a backslash
 * belongs to the value. Empty words are skipped, since mount(8) itself passes `a,,b`. Throws `usage` for an open quote.
 */
export function splitOptionWords(list: string): OptionWord[] {
  const words: OptionWord[] = [];
  let start = 0;
  let quoted = false;
  for (let at = 0; at <= list.length; at += 1) {
    const character = list[at];
    if (character === '"') quoted = !quoted;
    if (character !== undefined && (character !== "," || quoted || list[at - 1] === "\\")) continue;
    if (at > start) words.push(toWord(list.slice(start, at)));
    start = at + 1;
  }
  if (quoted) {
    // The list may hold a password: name the place, not the text.
    throw new OcifsError(
      "usage",
      `-o: the double quote in option ${words.length + 1} is not closed; add the missing quote`,
    );
  }
  return words;
}

function toWord(raw: string): OptionWord {
  const equals = raw.indexOf("=");
  if (equals < 0) return { key: raw, raw };
  return { key: raw.slice(0, equals), value: unescapeValue(raw.slice(equals + 1)), raw };
}

/** Undoes what protected a comma: quotes around the whole value, or a backslash before it. Other characters stand for themselves. */
function unescapeValue(text: string): string {
  if (/^"[^"]*"$/.test(text)) return text.slice(1, -1);
  return text.replaceAll("\\,", ",");
}

/** An argument of its own (`oci.layer=0` before the mountpoint): one word, its value verbatim, commas included. */
export function wordOfArgument(argument: string): OptionWord {
  const equals = argument.indexOf("=");
  return { key: argument.slice(0, equals), value: argument.slice(equals + 1), raw: argument };
}
