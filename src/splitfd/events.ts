/** Where a file's content is, when the stream only names it. */
export type ContentReference =
  /** Position among the content descriptors of the stream, the stream itself not counted. */
  | { readonly kind: "fd"; readonly index: number }
  /** A path below one of the stream's directories. */
  | { readonly kind: "name"; readonly directory: number; readonly name: Uint8Array };

/**
 * What a layer's stream consists of, in the order of the tar. After `begin` exactly `sizeBytes` follow in `bytes` events of any size.
 * `metadata`: headers, padding, the end of the archive. `content`: one whole file. `inline`: splitfdstream does not tell which.
 */
export type StreamEvent =
  | { readonly kind: "begin"; readonly of: "metadata" | "content" | "inline"; readonly sizeBytes: number }
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  /** All of one file's content. splitfdstream does not tell its size. */
  | { readonly kind: "reference"; readonly to: ContentReference; readonly sizeBytes: number | undefined };
