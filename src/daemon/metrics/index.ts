export { CacheSizes } from "./cache-sizes.js";
export { formatMetrics } from "./format.js";
export { MetricsServer } from "./server.js";
