import fc from "fast-check";

type Mutation = (bytes: Buffer) => Buffer;

const place = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true });
const at = (fraction: number, length: number) => Math.floor(fraction * length);

/** One change such as damage or malice makes: other bytes, bytes that are gone, doubled, or put in. */
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.tuple(place, fc.nat(255)).map(
    ([where, byte]): Mutation =>
      (bytes) => {
        const out = Buffer.from(bytes);
        if (out.length > 0) out[at(where, out.length)] = byte;
        return out;
      },
  ),
  fc.tuple(place, place).map(
    ([a, b]): Mutation =>
      (bytes) => {
        const [from, to] = [at(a, bytes.length), at(b, bytes.length)].sort((x, y) => x - y);
        return Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)]);
      },
  ),
  fc.tuple(place, place, place).map(
    ([a, b, where]): Mutation =>
      (bytes) => {
        const [from, to] = [at(a, bytes.length), at(b, bytes.length)].sort((x, y) => x - y);
        const into = at(where, bytes.length);
        return Buffer.concat([bytes.subarray(0, into), bytes.subarray(from, to), bytes.subarray(into)]);
      },
  ),
  fc.tuple(place, fc.uint8Array({ maxLength: 8 })).map(
    ([where, more]): Mutation =>
      (bytes) => {
        const into = at(where, bytes.length);
        return Buffer.concat([bytes.subarray(0, into), more, bytes.subarray(into)]);
      },
  ),
);

/** `bytes` with one to four changes. */
export function mutated(bytes: Buffer): fc.Arbitrary<Buffer> {
  return fc
    .array(mutation, { minLength: 1, maxLength: 4 })
    .map((mutations) => mutations.reduce((changed, mutate) => mutate(changed), bytes));
}
