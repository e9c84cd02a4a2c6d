import type { ArgumentsCamelCase, Argv } from "yargs";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { TextSink } from "./output.js";

/** What every subcommand is given beside its arguments. */
export interface CommandContext {
  /** Results go here, and nothing else. */
  readonly stdout: TextSink;
  /** The same place as `stdout`, for content that is not text. Resolves when it can take more. */
  readonly writeBytes: (bytes: Uint8Array) => Promise<void>;
  /** Progress and remarks. */
  readonly stderr: TextSink;
  readonly stdin: AsyncIterable<Uint8Array | string>;
  /** Fires at SIGINT and SIGTERM; the command then ends with `aborted`. */
  readonly signal: AbortSignal;
}

/** One subcommand, in a file of its own in `commands/`; its name and its line of help are in the list of them. */
export interface OcifsCommand<Args> {
  readonly builder: (yargs: Argv) => Argv<Args>;
  /** Throws OcifsError; the frame prints it and sets the exit code. */
  readonly run: (args: ArgumentsCamelCase<Args>, context: CommandContext) => Promise<void>;
}

/** Runs the command that was chosen, with its arguments. */
export type ChosenRun = (context: CommandContext) => Promise<void>;

/**
 * Thrown by yargs' handler instead of running the command there: after every handler that returns yargs puts the whole help text
 * together, in case somebody asks for it later.
 */
export class Chosen {
  readonly run: ChosenRun;

  constructor(run: ChosenRun) {
    this.run = run;
  }
}

/** A subcommand whose arguments' type is known to itself only, so that all of them fit in one list. */
export interface DefinedCommand {
  readonly register: (yargs: Argv, command: string, describe: string) => Argv;
}

/** Makes a subcommand fit for the list in `commands/index.ts`. */
export function defineCommand<Args>({ builder, run }: OcifsCommand<Args>): DefinedCommand {
  return {
    register: (yargs, command, describe) =>
      yargs.command(command, describe, builder, (args) => {
        throw new Chosen((context) => run(args, context));
      }),
  };
}

/** A subcommand as help shows it, and how to get it. */
export interface ListedCommand {
  /** `argv`: the whole command line. The command is loaded if its word is there; else only its line of help is known. */
  readonly register: (yargs: Argv, argv: readonly string[]) => Promise<Argv>;
}

/** `command`: yargs' notation, `ls <image> [path]`. */
export function listCommand(command: string, describe: string, load: () => Promise<DefinedCommand>): ListedCommand {
  return {
    register: async (yargs, argv) =>
      isNamed(command, argv) ? (await load()).register(yargs, command, describe) : yargs.command(command, describe),
  };
}

/** Subcommands behind one word, such as `cache du` and `cache gc`; yargs tells commands apart by their first word only. */
export function listGroup(word: string, describe: string, commands: readonly ListedCommand[]): ListedCommand {
  return {
    register: async (yargs, argv) =>
      isNamed(word, argv)
        ? yargs.command(word, describe, async (group) =>
            (await registerAll(group, commands, argv)).demandCommand(1, `no command of "${word}" given`),
          )
        : yargs.command(word, describe),
  };
}

export async function registerAll(
  yargs: Argv,
  commands: readonly ListedCommand[],
  argv: readonly string[],
): Promise<Argv> {
  let registered = yargs;
  for (const command of commands) registered = await command.register(registered, argv);
  return registered;
}

function isNamed(command: string, argv: readonly string[]): boolean {
  const [word = command] = command.split(" ", 1);
  return argv.includes(word);
}

/** What the options shared by all subcommands that reach a registry come out as. */
export interface RegistryArguments {
  insecure: boolean;
  username: string | undefined;
  "password-stdin": boolean;
  platform: string | undefined;
  "hosts-dir": string | undefined;
  cachedir: string | undefined;
}

/** Adds `--insecure --username --password-stdin --cachedir`. */
export function loginOptions<T>(yargs: Argv<T>): Argv<T & Omit<RegistryArguments, "platform" | "hosts-dir">> {
  return yargs
    .option("insecure", { type: "boolean", default: false, describe: "Speak plain HTTP to the registry" })
    .option("username", { type: "string", requiresArg: true, describe: "User name at the registry" })
    .option("password-stdin", {
      type: "boolean",
      default: false,
      describe: "Read the password from standard input, where no other user can see it",
    })
    .option("cachedir", { type: "string", requiresArg: true, describe: "Where fetched data is kept" }) as Argv<
    T & Omit<RegistryArguments, "platform" | "hosts-dir">
  >;
}

/** Adds those, `--platform` and `--hosts-dir`. */
export function registryOptions<T>(yargs: Argv<T>): Argv<T & RegistryArguments> {
  return loginOptions(yargs)
    .option("platform", {
      type: "string",
      requiresArg: true,
      describe: "os/arch[/variant]; default: this machine's",
    })
    .option("hosts-dir", {
      type: "string",
      requiresArg: true,
      describe: "Where mirrors and certificates of registries are said, as containerd's HOST/hosts.toml",
    }) as Argv<T & RegistryArguments>;
}

/** Adds `--json`, for subcommands that list something. */
export function jsonOption<T>(yargs: Argv<T>): Argv<T & { json: boolean }> {
  return yargs.option("json", { type: "boolean", default: false, describe: "Print one JSON document" }) as Argv<
    T & { json: boolean }
  >;
}

/**
 * The credentials of `--username` and `--password-stdin`, or undefined when neither was given. The password is what stands on
 * standard input, without its last line end. Throws `usage` when one is given without the other.
 */
export async function readCredentials(
  args: Pick<RegistryArguments, "username" | "password-stdin">,
  context: Pick<CommandContext, "stdin">,
): Promise<{ username: string; password: string } | undefined> {
  if (args.username === undefined && !args["password-stdin"]) return undefined;
  if (args.username === undefined || !args["password-stdin"]) {
    throw new OcifsError("usage", "--username and --password-stdin go together; give both or neither");
  }
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of context.stdin) {
    const bytes = Buffer.from(chunk);
    sizeBytes += bytes.length;
    if (sizeBytes > limits.passwordBytes) {
      throw new OcifsError(
        "limit",
        `--password-stdin: standard input holds more than ${limits.passwordBytes} bytes; pipe in the password only`,
      );
    }
    chunks.push(bytes);
  }
  const password = Buffer.concat(chunks)
    .toString("utf8")
    .replace(/\r?\n$/, "");
  if (password === "") throw new OcifsError("usage", "--password-stdin: standard input is empty; pipe in the password");
  return { username: args.username, password };
}
