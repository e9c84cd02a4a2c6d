import type { ServiceDefinition } from "@grpc/grpc-js";
import { fromJSON } from "@grpc/proto-loader";
import { OcifsError } from "../base/errors.js";

/** A message, as protobufjs takes it: fields by name, with type and number. `labels` is a map of strings, `repeated T` a list. */
export const message = (fields: Readonly<Record<string, readonly [type: string, id: number]>>) => ({
  fields: Object.fromEntries(
    Object.entries(fields).map(([name, [type, id]]) => {
      if (type.startsWith("repeated ")) return [name, { rule: "repeated", type: type.slice("repeated ".length), id }];
      return [name, type === "labels" ? { keyType: "string", type: "string", id } : { type, id }];
    }),
  ),
});

/** A method of a service. */
export const method = (
  name: string,
  requestType: string,
  responseType: string,
  streams: { requestStream?: true; responseStream?: true } = {},
) => ({
  [name]: { requestType, responseType, ...streams },
});

const wellKnown = {
  Timestamp: message({ seconds: ["int64", 1], nanos: ["int32", 2] }),
  FieldMask: message({ paths: ["repeated string", 1] }),
  Empty: message({}),
};

/** Messages of containerd that several of its services use. */
const containerdTypes = {
  Mount: message({
    type: ["string", 1],
    source: ["string", 2],
    target: ["string", 3],
    options: ["repeated string", 4],
  }),
  Descriptor: message({
    media_type: ["string", 1],
    digest: ["string", 2],
    size: ["int64", 3],
    annotations: ["labels", 5],
  }),
};

interface Namespace {
  nested: Record<string, Namespace>;
}

/** `content` at the dotted path. */
const nested = (path: string, content: object): Namespace =>
  path
    .split(".")
    .reduceRight((inner, name) => ({ nested: { [name]: inner } }) as Namespace, { nested: content } as Namespace);

function merge(into: Namespace, other: Namespace): void {
  for (const [name, inner] of Object.entries(other.nested)) {
    const there = into.nested[name];
    if (there === undefined) into.nested[name] = inner;
    else merge(there, inner);
  }
}

/** A service of the messages and services of one package. 64-bit numbers are JavaScript's, enums are numbers. */
export function loadService(packageName: string, content: object, serviceName: string): ServiceDefinition {
  const root: Namespace = { nested: {} };
  merge(root, nested("google.protobuf", wellKnown));
  merge(root, nested("containerd.types", containerdTypes));
  merge(root, nested(packageName, content));
  const how = { keepCase: true, longs: Number, enums: Number, defaults: true, objects: true };
  const service = fromJSON(root as never, how)[`${packageName}.${serviceName}`];
  if (service === undefined || "format" in service) {
    throw new OcifsError("internal", `gRPC: ${packageName} has no service ${serviceName}`);
  }
  return service as ServiceDefinition;
}
