import { OcifsError } from "../base/errors.js";

/** Of a name that is taken. containerd takes it for "somebody else made it", and looks for what is there. */
export class SnapshotExistsError extends OcifsError {
  constructor(name: string) {
    super("busy", `snapshot ${name}: it exists already`);
    this.name = "SnapshotExistsError";
  }
}

/** A mount that a snapshot lies on cannot be made now; it may be later. */
export class MountUnavailableError extends OcifsError {
  constructor(message: string, cause: unknown) {
    super("network", message, { cause });
    this.name = "MountUnavailableError";
  }
}
