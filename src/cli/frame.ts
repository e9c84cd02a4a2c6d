import yargs from "yargs";
import { OcifsError } from "../base/errors.js";
import { version } from "../base/version.js";
import { Chosen, type CommandContext, type ListedCommand, registerAll } from "./command.js";
import { describeError, oneSentence } from "./describe-error.js";
import { commandExitCode, commandExitCodes } from "./exit-codes.js";

/**
 * Runs `ocifs` with these arguments (without the program's name) and returns its exit code; it never throws and never ends
 * the process. Help and version go to stdout, one sentence for an error to stderr.
 */
export async function runOcifs(
  argv: readonly string[],
  commands: readonly ListedCommand[],
  context: CommandContext,
  env: NodeJS.ProcessEnv = process.env,
): Promise<number> {
  try {
    // yargs hands help and version to this callback instead of printing them.
    let output = "";
    const parser = await registerAll(
      yargs()
        .scriptName("ocifs")
        .usage("$0 COMMAND\n\nMounts remote container images lazily; mount.ocifs makes the mounts.")
        .version(version)
        .help()
        .alias({ h: "help", V: "version" })
        .strict()
        .demandCommand(1, "no command given")
        .recommendCommands()
        // Our own texts are English; half a message in another language helps nobody.
        .detectLocale(false)
        .parserConfiguration({ "duplicate-arguments-array": false })
        .exitProcess(false)
        .fail((message, error) => {
          // yargs' own complaints about the command line come without an error or with a YError; the rest is a command's.
          if (error !== undefined && error !== null && error.name !== "YError") throw error;
          throw new OcifsError("usage", `${oneSentence(message ?? error.message)}; see ocifs --help`);
        }),
      commands,
      argv,
    );
    try {
      await parser.parseAsync([...argv], {}, (_error, _args, text) => {
        output = text;
      });
    } catch (thrown) {
      if (!(thrown instanceof Chosen)) throw thrown;
      await thrown.run(context);
    }
    if (output !== "") context.stdout.write(`${output}\n`);
    return commandExitCodes.success;
  } catch (error) {
    context.stderr.write(`ocifs: ${describeError(error, env)}\n`);
    return commandExitCode(error);
  }
}
