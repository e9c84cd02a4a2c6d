import type { Metric, MetricObjectWithValues, MetricValue } from "prom-client";
import { type DurationCounts, durationLimitSeconds } from "../../native/fuse.js";
import type { DaemonStatus, MountStatus } from "../status.js";

type Labels = Readonly<Record<string, string | number>>;
type Family = MetricObjectWithValues<MetricValue<string>>;

/** prom-client writes the text; what it is to write is counted elsewhere and only looked at here. */
class Families {
  readonly #families = new Map<string, Family>();

  add(type: "counter" | "gauge", name: string, help: string, labels: Labels, value: number): void {
    this.#family(type, name, help).values.push({ labels, value });
  }

  addHistogram(name: string, help: string, labels: Labels, { seconds, counts }: DurationCounts): void {
    const { values } = this.#family("histogram", name, help);
    let below = 0;
    counts.forEach((count, bucket) => {
      below += count;
      const le = bucket === counts.length - 1 ? "+Inf" : durationLimitSeconds(bucket);
      values.push(named(`${name}_bucket`, { ...labels, le }, below));
    });
    if (counts.length === 0) values.push(named(`${name}_bucket`, { ...labels, le: "+Inf" }, 0));
    values.push(named(`${name}_sum`, labels, seconds), named(`${name}_count`, labels, below));
  }

  all(): Family[] {
    return [...this.#families.values()];
  }

  #family(type: string, name: string, help: string): Family {
    const found = this.#families.get(name);
    if (found) return found;
    const family = { name, help, type, values: [], aggregator: "sum" } as unknown as Family;
    this.#families.set(name, family);
    return family;
  }
}

function named(metricName: string, labels: Labels, value: number): MetricValue<string> {
  return { metricName, labels, value } as MetricValue<string>;
}

/**
 * What daemons said of themselves in Prometheus' text format. `cacheBytesOf` is asked once for each cache directory. Labels say which mount
 * and which image; a mount in another mount namespace has that too.
 */
export async function formatMetrics(
  daemons: readonly DaemonStatus[],
  cacheBytesOf: (directory: string) => Promise<number>,
): Promise<string> {
  const families = new Families();
  for (const daemon of daemons) addDaemon(families, daemon);
  // What covers another mount has the same labels, of which there must be no two: the upper one counts.
  const mounts = new Map(
    daemons.flatMap((each) => each.mounts).map((mount) => [JSON.stringify(labelsOf(mount)), mount]),
  );
  for (const mount of mounts.values()) addMount(families, mount);
  const directories = new Set(daemons.flatMap((each) => each.mounts).map((mount) => mount.cacheDirectory));
  for (const directory of directories) {
    const bytes = await cacheBytesOf(directory);
    families.add("gauge", "ocifs_cache_bytes", "Size of a cache on disk", { directory }, bytes);
  }
  // Loaded here: few daemons are ever asked.
  const { default: prometheus } = await import("prom-client");
  const registry = new prometheus.Registry();
  for (const family of families.all()) {
    const metric = { name: family.name, get: async () => family, reset: () => undefined };
    registry.registerMetric(metric as unknown as Metric);
  }
  return await registry.metrics();
}

function addDaemon(families: Families, { pid, version, shared, mounts, restarts, rssBytes }: DaemonStatus): void {
  const labels = { pid };
  const info = { pid, version, shared: String(shared) };
  families.add("gauge", "ocifs_daemon_info", "Running daemons", info, 1);
  families.add("gauge", "ocifs_daemon_mounts", "Mounts of a daemon", labels, mounts.length);
  families.add("gauge", "ocifs_daemon_resident_bytes", "Resident memory of a daemon", labels, rssBytes);
  families.add(
    "counter",
    "ocifs_daemon_restarts_total",
    "How often its keeper had to start a daemon again",
    labels,
    restarts,
  );
}

function labelsOf({ source, mountpoint, mountNamespace }: MountStatus): Labels {
  return { image: source, mountpoint, ...(mountNamespace === null ? {} : { mount_namespace: mountNamespace }) };
}

function addMount(families: Families, mount: MountStatus): void {
  const labels = labelsOf(mount);
  const gauge = (name: string, help: string, value: number, more: Labels = {}) =>
    families.add("gauge", name, help, { ...labels, ...more }, value);
  const counter = (name: string, help: string, value: number, more: Labels = {}) =>
    families.add("counter", name, help, { ...labels, ...more }, value);
  const sum = (of: (layer: MountStatus["layers"][number]) => number) =>
    mount.layers.reduce((all, layer) => all + of(layer), 0);

  const info = { driver: mount.driver, digest: mount.manifestDigest ?? "" };
  gauge("ocifs_mount_info", "Mounts", 1, info);
  gauge(
    "ocifs_mount_degraded",
    "1 while reads of the mount fail or wait, or its cache cannot be written",
    mount.state === "degraded" ? 1 : 0,
  );
  counter("ocifs_requests_total", "Requests of the kernel", mount.requests);
  counter("ocifs_reads_total", "Reads among them", mount.reads);
  counter("ocifs_read_misses_total", "Times that a read waited for data that was not in the cache", mount.readMisses);
  const bytes = "Bytes of reads that were answered from the cache at once, and of those that had to wait";
  counter("ocifs_read_bytes_total", bytes, mount.readBytes - mount.waitedBytes, { origin: "cache" });
  counter("ocifs_read_bytes_total", bytes, mount.waitedBytes, { origin: "network" });
  const time = "Time from a read to its answer";
  families.addHistogram("ocifs_read_seconds", time, { ...labels, origin: "cache" }, mount.hitTime);
  families.addHistogram("ocifs_read_seconds", time, { ...labels, origin: "network" }, mount.waitTime);
  counter("ocifs_reads_interrupted_total", "Reads given up by their readers", mount.interrupted);
  const failed = "Reads that failed, by the cause as ocifs names it";
  for (const [cause, count] of Object.entries(mount.readErrors)) {
    counter("ocifs_read_errors_total", failed, count, { cause });
  }
  counter("ocifs_request_errors_total", "Requests that were answered with EIO", mount.errors);
  counter("ocifs_fetched_bytes_total", "Bytes received from the registry", mount.bytesFetched);
  counter(
    "ocifs_fetch_requests_total",
    "Requests to the registry",
    sum((layer) => layer.fetchRequests),
  );
  counter(
    "ocifs_fetch_retries_total",
    "Those that repeated one before",
    sum((layer) => layer.fetchRetries),
  );
  gauge("ocifs_image_bytes", "Compressed size of the image's layers", mount.bytesTotal);
  gauge(
    "ocifs_image_cached_bytes",
    "Compressed bytes of them in the cache",
    sum((layer) => layer.cachedBytes),
  );
  gauge(
    "ocifs_image_spans",
    "Pieces into which the layers are divided",
    sum((layer) => layer.spans),
  );
  gauge(
    "ocifs_image_cached_spans",
    "Pieces that are decompressed in the cache",
    sum((layer) => layer.cachedSpans),
  );
}
