/** What `parse` returns, or the sentence of what it throws: node:util's parseArgs throws for options it does not know. */
export function orMessage<T>(parse: () => T | string): T | string {
  try {
    return parse();
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
