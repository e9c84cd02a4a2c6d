import type { OcifsError } from "../base/errors.js";

/** An answer: a value, and descriptors that are sent with it and closed then. `sent` is called when they are on their way. */
export interface Answer {
  readonly result: unknown;
  readonly fds?: readonly number[];
}

/** Answers a request; its signal fires when the client has gone. Throws OcifsError: `usage` for parameters that make no sense. */
export type FdMethod = (params: Readonly<Record<string, unknown>>, signal: AbortSignal) => Promise<Answer>;

/** JSON-RPC methods by name; varlink methods by their full name, `org.composefs.Oci.GetInfo`. */
export interface MethodTable {
  readonly jsonRpc: Readonly<Record<string, FdMethod>>;
  readonly varlink: Readonly<Record<string, FdMethod>>;
  /** An error as varlink names it, given what the request's parameters were. */
  readonly varlinkError: (
    error: OcifsError,
    parameters: Readonly<Record<string, unknown>>,
  ) => { readonly error: string; readonly parameters: object };
}
