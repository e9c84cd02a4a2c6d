/** The files of undici that undici-pool.ts loads by themselves; the package has types for its index only. */
declare module "undici/lib/api/index.js" {
  const methods: object;
  export default methods;
}

declare module "undici/lib/dispatcher/dispatcher.js" {
  const dispatcher: { readonly prototype: object };
  export default dispatcher;
}

declare module "undici/lib/dispatcher/pool.js" {
  const pool: typeof import("undici").Pool;
  export default pool;
}
