/**
 * A program for test/integration/serve-fd-limits.test.ts, which starts it with a low limit of open files: what happens with descriptors
 * under way when the kernel will not take, or not give, as many. Prints one line of JSON.
 */
import { closeSync, openSync, readdirSync } from "node:fs";
import { messageOf } from "../../src/base/errors.js";
import { receiveMessage, SocketPoller, sendMessage } from "../../src/native/fdpass.js";
import { openSocketPair } from "../../src/native/fuse.js";
import { FdSocket } from "../../src/serve/fd-socket.js";

const openFiles = () => readdirSync("/proc/self/fd").length;

/** More descriptors come than this process may have open. */
async function truncated(): Promise<object> {
  const [a, b] = openSocketPair();
  using poller = new SocketPoller();
  using sender = new FdSocket(a, poller);
  using receiver = new FdSocket(b, poller);
  const fd = openSync("/dev/null", "r");
  const before = openFiles();
  await sender.send(Buffer.from("message"), Array<number>(200).fill(fd));
  let said = "";
  try {
    await receiver.receive();
  } catch (error) {
    said = messageOf(error);
  }
  const after = openFiles();
  closeSync(fd);
  return { said, left: after - before };
}

/** More descriptors are under way than the kernel lets an ordinary user send, until the other side takes them. */
async function tooManyUnderWay(): Promise<object> {
  const [a, b] = openSocketPair();
  using poller = new SocketPoller();
  using sender = new FdSocket(a, poller);
  const fd = openSync("/dev/null", "r");
  const into = Buffer.alloc(1024);
  let refused = "";
  for (let messages = 0; refused === "" && messages < 100; messages++) {
    try {
      sendMessage(a, Buffer.from("x"), Array<number>(20).fill(fd));
    } catch (error) {
      refused = messageOf(error);
    }
  }
  // Waits now, and is sent when there is room again: once.
  const waiting = sender.send(Buffer.from("last"), [fd]);
  let text = "";
  let fds = 0;
  while (!text.endsWith("last")) {
    const got = receiveMessage(b, into);
    if (got === undefined) await new Promise(setImmediate);
    else {
      text += into.toString("latin1", 0, got.bytes);
      fds += got.fds.length;
      for (const each of got.fds) closeSync(each);
    }
  }
  await waiting;
  closeSync(b);
  closeSync(fd);
  return { refused, text: text.replace(/x+/, "x"), fds: fds % 20 };
}

process.stdout.write(`${JSON.stringify(await (process.argv[2] === "truncated" ? truncated() : tooManyUnderWay()))}\n`);
