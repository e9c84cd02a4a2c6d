import fc from "fast-check";
import { LayerModel } from "./layer-model.js";
import type { TarItem } from "./tar-builder.js";

/** A wish: what becomes of it depends on what the image has by then. */
interface Wish {
  readonly kind: "file" | "directory" | "symlink" | "hardlink" | "fifo" | "remove" | "opaque";
  readonly path: readonly string[];
  readonly pick: number;
  /** Whether directories on the way get an entry where none is needed. */
  readonly complete: boolean;
}

const names = ["a", "b", "c", "-d"];

const wish: fc.Arbitrary<Wish> = fc.record({
  kind: fc.constantFrom(
    ...([
      "file",
      "file",
      "file",
      "directory",
      "symlink",
      "hardlink",
      "hardlink",
      "fifo",
      "remove",
      "remove",
      "opaque",
    ] as const),
  ),
  path: fc.array(fc.constantFrom(...names), { minLength: 1, maxLength: 3 }),
  pick: fc.nat({ max: 1000 }),
  complete: fc.boolean(),
});

/** Each layer: what is wished for. Give it to `layersOf`. */
export const layerWishes = (layers: number, wishes: number, atLeast = 1): fc.Arbitrary<Wish[][]> =>
  fc.array(fc.array(wish, { maxLength: wishes }), { minLength: atLeast, maxLength: layers });

/** Directories that symbolic links lead to. No wish removes or replaces them. */
const targets = ["t1", "t2"];
const linkTargets = ["/t1", "../../../t2", "/t1/sub"];
const base: TarItem[] = [
  { path: "./", type: "directory", mode: 0o751, mtime: 1 },
  { path: "t1", type: "directory", mode: 0o711, mtime: 2 },
  { path: "t1/kept", data: "kept", mtime: 3 },
  { path: "t2", type: "directory", uid: 4, mtime: 4 },
];

/**
 * Turns wishes into layers that every unpacker takes the same way, and applies them to a model: whiteouts first, the upper ones before
 * those below, then entries with parents before children and no file said twice.
 */
export function layersOf(wishes: readonly (readonly Wish[])[]): { layers: TarItem[][]; model: LayerModel } {
  const model = new LayerModel();
  for (const item of base) model.apply(item);
  return { layers: [base, ...wishes.map((layer) => new LayerWriter(model).write(layer))], model };
}

class LayerWriter {
  readonly #model: LayerModel;
  readonly #items: TarItem[] = [];
  /** Resolved path → path in the tar, of this layer's entries. */
  readonly #placed = new Map<string, string>();
  /** Directories of the tar's paths that were gone through without an entry: a later one must not make something else of them. */
  readonly #passed = new Set<string>();
  #count = 0;

  constructor(model: LayerModel) {
    this.#model = model;
    model.beginLayer();
  }

  write(wishes: readonly Wish[]): TarItem[] {
    const removals = wishes.filter(({ kind }) => kind === "remove" || kind === "opaque");
    for (const { kind, path } of removals.toSorted((a, b) => depth(a) - depth(b))) {
      for (let length = 1; length < depth({ kind, path }); length++) this.#passed.add(path.slice(0, length).join("/"));
      if (kind === "remove") this.#push({ path: [...path.slice(0, -1), `.wh.${path.at(-1)}`].join("/") });
      else if (this.#model.at(this.#model.resolve(path.join("/")))?.type === "directory") {
        this.#push({ path: `${path.join("/")}/.wh..wh..opq` });
      }
    }
    const entries = wishes.filter((each) => !removals.includes(each));
    for (const each of entries.toSorted((a, b) => (a.path.join("/") < b.path.join("/") ? -1 : 1))) this.#add(each);
    return this.#items;
  }

  #push(item: TarItem): void {
    this.#items.push(item);
    this.#model.apply(item);
  }

  #add({ kind, path, pick, complete }: Wish): void {
    for (let length = 1; length < path.length; length++) {
      if (!this.#addParent(path.slice(0, length), complete, pick)) return;
    }
    const placed = this.#place(path, kind);
    if (placed === undefined) return;
    const common = { path: path.join("/"), mode: 0o600 + (pick % 64), uid: pick % 3, mtime: 10 + pick };
    const xattrs = pick % 5 === 0 ? { "user.pick": `${pick % 7}` } : {};
    this.#count++;
    if (kind === "file") this.#push({ ...common, xattrs, data: `${this.#count}-${pick}`.repeat(pick) });
    else if (kind === "symlink")
      this.#push({ ...common, type: kind, mode: 0o777, linkPath: linkTargets[pick % linkTargets.length] ?? "" });
    else if (kind === "hardlink") this.#addHardlink(common.path, placed, pick);
    else if (kind !== "remove" && kind !== "opaque")
      this.#push({ ...common, type: kind, ...(kind === "directory" ? { xattrs } : {}) });
    if (this.#model.at(placed) !== undefined) this.#placed.set(placed.join("/"), common.path);
  }

  /** False when something is in the way that this layer has put there. */
  #addParent(path: readonly string[], complete: boolean, pick: number): boolean {
    const text = path.join("/");
    const here = this.#model.at(this.#resolveOrNone(text) ?? []);
    if (this.#placed.has((this.#resolveParent(path) ?? []).join("/"))) return here?.type === "directory";
    const needed = here !== undefined && here.type !== "directory";
    if (!needed && !(complete && pick % 2 === 0) && this.#resolveOrNone(text) !== undefined) {
      this.#passed.add(text);
      return true;
    }
    const placed = this.#place(path, "directory");
    if (placed === undefined) return false;
    this.#push({ path: text, type: "directory", mode: 0o700 + (pick % 64), mtime: 5 + pick });
    this.#placed.set(placed.join("/"), text);
    return true;
  }

  /** Where an entry goes; undefined where it would touch what the layer has already, or a link's target. */
  #place(path: readonly string[], kind: Wish["kind"]): string[] | undefined {
    const placed = this.#resolveParent(path);
    if (placed === undefined) return undefined;
    const stays = kind === "directory" && this.#model.at(placed)?.type === "directory";
    if (this.#passed.has(path.join("/")) && !stays) return undefined;
    const text = placed.join("/");
    const clash = [...this.#placed.keys()].some((other) => other === text || other.startsWith(`${text}/`));
    return clash || targets.includes(text) ? undefined : placed;
  }

  /** With links followed in all but the last component; undefined when that leads through a file. */
  #resolveParent(path: readonly string[]): string[] | undefined {
    const parent = this.#resolveOrNone(path.slice(0, -1).join("/"));
    return parent && [...parent, path.at(-1) ?? ""];
  }

  #resolveOrNone(path: string): string[] | undefined {
    try {
      const resolved = this.#model.resolve(path);
      const way = resolved.map((_, i) => this.#model.at(resolved.slice(0, i + 1)));
      return way.every((node) => node === undefined || node.type === "directory") || path === "" ? resolved : undefined;
    } catch {
      return undefined;
    }
  }

  /** To any file there is, by the path that the tar knows it under. */
  #addHardlink(path: string, placed: readonly string[], pick: number): void {
    const files = this.#model.list().filter(({ type }) => type === "file" || type === "fifo");
    const target = files[pick % files.length]?.path.slice(1);
    // Unpackers remove what is at the link's own path before they link.
    if (target === undefined || `${target}/`.startsWith(`${placed.join("/")}/`)) return;
    this.#push({ path, type: "hardlink", linkPath: this.#placed.get(target) ?? target });
  }
}

function depth({ path, kind }: Pick<Wish, "path" | "kind">): number {
  return path.length + (kind === "opaque" ? 1 : 0);
}
