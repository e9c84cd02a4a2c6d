import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { SnapshotRecord } from "./snapshot-record.js";

/**
 * containerd's filters (its package `filters`): `field.path`, `==`, `!=`, `~=`, values and fields quoted as in Go where
 * needed; all selectors of one filter must hold (`,`), and one of several filters.
 */
export type SnapshotFilter = (record: SnapshotRecord) => boolean;

type Selector = SnapshotFilter;

/** No filter lets everything through. Throws `usage` for one that does not parse, `limit` for too many. */
export function parseFilters(texts: readonly string[]): SnapshotFilter {
  if (texts.length > limits.snapshotFilters) {
    throw new OcifsError("limit", `list: ${texts.length} filters, the limit is ${limits.snapshotFilters}`);
  }
  const filters = texts.filter((text) => text !== "").map((text) => new FilterParser(text).parse());
  if (filters.length === 0) return () => true;
  return (record) => filters.some((selectors) => selectors.every((holds) => holds(record)));
}

class FilterParser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Selector[] {
    const selectors = [this.#selector()];
    while (this.#take(/,/y) !== undefined) selectors.push(this.#selector());
    if (this.#at < this.#text.length) throw this.#fail("want a comma");
    return selectors;
  }

  #selector(): Selector {
    const path = [this.#field()];
    while (this.#take(/\./y) !== undefined) path.push(this.#field());
    const operator = this.#take(/[=!~]=/y);
    if (operator === undefined) return (record) => fieldOf(record, path) !== undefined;
    const value = this.#quoted() ?? this.#take(/[^\s,"|/]+/y);
    if (value === undefined) throw this.#fail("want a value");
    if (operator === "==") return (record) => fieldOf(record, path) === value;
    if (operator === "!=") return (record) => fieldOf(record, path) !== value;
    const pattern = this.#pattern(value);
    return (record) => pattern.test(fieldOf(record, path) ?? "");
  }

  #field(): string {
    const field = this.#quoted() ?? this.#take(/[A-Za-z][A-Za-z0-9_]*/y);
    if (field === undefined) throw this.#fail("want a field");
    return field;
  }

  #quoted(): string | undefined {
    const literal = this.#take(/"(?:[^"\\]|\\.)*"/y);
    if (literal === undefined) return undefined;
    try {
      return JSON.parse(literal) as string;
    } catch (cause) {
      throw this.#fail(`cannot read ${literal}: ${messageOf(cause)}`);
    }
  }

  #pattern(value: string): RegExp {
    try {
      return new RegExp(value, "u");
    } catch (cause) {
      throw this.#fail(messageOf(cause));
    }
  }

  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const [found] = pattern.exec(this.#text) ?? [];
    this.#at += found?.length ?? 0;
    return found;
  }

  #fail(why: string): OcifsError {
    return new OcifsError("usage", `filter "${this.#text.slice(0, 300)}", at character ${this.#at}: ${why}`);
  }
}

function fieldOf(record: SnapshotRecord, [first, ...rest]: readonly string[]): string | undefined {
  if (first === "labels") {
    const key = rest.join(".");
    return Object.hasOwn(record.labels, key) ? record.labels[key] : undefined;
  }
  if (rest.length > 0) return undefined;
  if (first === "kind" || first === "name") return record[first];
  if (first === "parent") return record.parent;
  return undefined;
}
