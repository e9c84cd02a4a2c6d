import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { repositoryRoot } from "../support/fixtures.js";
import { type KernelMount, mountErofs } from "../support/kernel-erofs.js";
import { startProcess } from "../support/process.js";
import type { Bench } from "./bench.js";
import type { LayerName } from "./layers.js";
import { isMounted, unmount } from "./mounts.js";

const fuseNativeProgram = join(repositoryRoot, "dist", "test", "bench", "fuse-native-server.js");

/** A tree that a figure is measured against. */
export interface Tree {
  readonly name: string;
  readonly directory: string;
}

export interface ReferenceTree extends Tree, AsyncDisposable {
  /** The process that serves it, where that is one of ours. */
  readonly pid?: number;
}

/** The kernel's EROFS on the layer's index and its whole tar as a device: what the erofs driver is to come near. */
export async function mountKernelErofs(bench: Bench, name: LayerName): Promise<ReferenceTree> {
  const { tarindexPath } = await bench.index(name);
  const mount: KernelMount = await mountErofs(tarindexPath, [await bench.device(name)]);
  return {
    name: "kernel EROFS",
    directory: mount.directory,
    [Symbol.asyncDispose]: () => mount[Symbol.asyncDispose](),
  };
}

/** The package fuse-native in a process of its own; see fuse-native-server.ts for the arguments. */
export function mountFuseNative(
  bench: Bench,
  kind: "memory" | "file" | "tree",
  source: string,
): Promise<ReferenceTree> {
  const names = { memory: "fuse-native, memory", file: "fuse-native, fs.read", tree: "fuse-native" };
  return serve(bench, names[kind], process.execPath, (directory) => [fuseNativeProgram, directory, kind, source]);
}

/** libfuse 3's low-level interface with one file, "file"; see libfuse-server.c. */
export async function mountLibfuse(bench: Bench, kind: "memory" | "file", source: string): Promise<ReferenceTree> {
  const name = kind === "memory" ? "libfuse 3, as hello_ll" : "libfuse 3, as passthrough_ll";
  return await serve(bench, name, await bench.libfuseServer(), (directory) => [directory, kind, source]);
}

async function serve(
  bench: Bench,
  name: string,
  program: string,
  words: (directory: string) => string[],
): Promise<ReferenceTree> {
  const directory = await bench.mountpoint();
  const server = await startProcess(program, words(directory), /^ready$/);
  return {
    name,
    directory,
    ...(server.child.pid === undefined ? {} : { pid: server.child.pid }),
    async [Symbol.asyncDispose]() {
      await unmount(directory);
      await server.stop();
    },
  };
}

/** How other tools mount a tree. They go to the background by themselves once they are mounted. */
interface OtherTool {
  readonly program: string;
  /** Another program that makes what it mounts. */
  readonly maker?: string;
  readonly prepare: (bench: Bench, files: string, work: string) => Promise<string>;
  readonly words: (source: string, directory: string) => readonly string[];
}

const erofsImage = async (bench: Bench, files: string, work: string) => {
  const image = join(work, "image.erofs");
  await bench.run("mkfs.erofs", ["--quiet", image, files]);
  return image;
};

const otherTools: readonly OtherTool[] = [
  { program: "mount.erofs", maker: "mkfs.erofs", prepare: erofsImage, words: (image, directory) => [image, directory] },
  { program: "erofsfuse", maker: "mkfs.erofs", prepare: erofsImage, words: (image, directory) => [image, directory] },
  {
    program: "ratarmount",
    prepare: async (bench, files, work) => {
      const archive = join(work, "archive.tar.gz");
      await bench.pipeline('tar -cf - -C "$1" . | gzip -n -6 >"$2"', files, archive);
      return archive;
    },
    words: (archive, directory) => ["--recreate-index", archive, directory],
  },
  {
    program: "squashfuse",
    maker: "mksquashfs",
    prepare: async (bench, files, work) => {
      const image = join(work, "image.squashfs");
      await bench.run("mksquashfs", [files, image, "-quiet", "-no-progress"]);
      return image;
    },
    words: (image, directory) => [image, directory],
  },
  {
    program: "fuse-overlayfs",
    prepare: async (_bench, files) => files,
    words: (files, directory) => ["-o", `lowerdir=${files}`, directory],
  },
];

/** The files in `files` as each tool mounts them that is on PATH. */
export async function mountOtherTools(bench: Bench, files: string): Promise<ReferenceTree[]> {
  const mounted: ReferenceTree[] = [];
  for (const { program, maker, prepare, words } of otherTools) {
    if (!(await isOnPath(program)) || (maker !== undefined && !(await isOnPath(maker)))) continue;
    bench.say(`${program}, which is on PATH`);
    const directory = await bench.mountpoint();
    const work = await bench.freshDirectory(program);
    // Descriptor 3 is how we hear of a program's end; in a daemon's hands it would stay open.
    const source = await prepare(bench, files, work);
    await bench.pipeline('"$@" 3>&-', program, ...words(source, directory));
    if (!(await isMounted(directory))) throw new Error(`${program} ended well and has mounted nothing`);
    mounted.push({ name: program, directory, [Symbol.asyncDispose]: () => unmount(directory) });
  }
  return mounted;
}

/** Names of those tools that will be measured. */
export async function otherToolsOnPath(): Promise<string[]> {
  const found: string[] = [];
  for (const { program } of otherTools) if (await isOnPath(program)) found.push(program);
  return found;
}

async function isOnPath(program: string): Promise<boolean> {
  for (const directory of (process.env.PATH ?? "").split(delimiter)) {
    try {
      await access(join(directory, program), constants.X_OK);
      return true;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOENT" && code !== "ENOTDIR" && code !== "EACCES") throw error;
    }
  }
  return false;
}
