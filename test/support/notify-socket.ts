import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";

export interface Notification {
  readonly message: string;
  /** What the descriptors that came along are open on. */
  readonly files: readonly string[];
}

const receiver = `
import array, json, os, socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\\0" + name[1:] if name.startswith("@") else name)
print("bound", flush=True)
while True:
    data, ancillary, _, _ = s.recvmsg(65536, socket.CMSG_SPACE(4 * 253))
    fds = array.array("i")
    for _, _, rights in ancillary:
        fds.frombytes(rights)
    print(json.dumps({"message": data.decode(), "files": [os.readlink("/proc/self/fd/%d" % fd) for fd in fds]}), flush=True)
    for fd in fds:
        os.close(fd)
`;

/** The service manager's end of NOTIFY_SOCKET. */
export class NotifySocket {
  readonly #lines: AsyncIterator<string>;

  private constructor(lines: AsyncIterator<string>) {
    this.#lines = lines;
  }

  /** `name` is a path, or an abstract name after @. */
  static async listen(t: TestContext, name: string): Promise<NotifySocket> {
    const child = spawn("python3", ["-c", receiver, name], { stdio: ["ignore", "pipe", "inherit"] });
    const exited = once(child, "exit");
    t.after(async () => {
      child.kill("SIGKILL");
      await exited;
    });
    const socket = new NotifySocket(createInterface({ input: child.stdout })[Symbol.asyncIterator]());
    await socket.#line();
    return socket;
  }

  async next(): Promise<Notification> {
    return JSON.parse(await this.#line()) as Notification;
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error("the notification socket's process has ended");
    return value;
  }
}
