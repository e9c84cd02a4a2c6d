/** One layer's uncompressed tar as a random-access byte range, whatever the layer's encoding. */
export interface LayerDevice extends AsyncDisposable {
  /** Uncompressed size, without trailing bytes that the index does not cover. */
  readonly sizeBytes: number;
  /**
   * Reads up to `length` bytes at `offset`; shorter only at the end of the device, empty at or past it.
   * Throws an OcifsError rather than give bytes that are not known to be right.
   */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>;
}
