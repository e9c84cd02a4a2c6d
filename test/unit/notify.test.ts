import assert from "node:assert/strict";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { hasServiceManager, notify, watchdogIntervalMs } from "../../src/native/notify.js";
import { rejectsWith } from "../support/errors.js";
import { NotifySocket } from "../support/notify-socket.js";
import { tempDirectory } from "../support/temp.js";

test("a message and descriptors reach a socket with a path", async (t) => {
  const path = join(await tempDirectory(t), "notify");
  const manager = await NotifySocket.listen(t, path);
  const fd = openSync("/dev/null", "r");
  t.after(() => closeSync(fd));
  assert.equal(await notify("FDSTORE=1\nFDNAME=fuse", [fd, fd], { NOTIFY_SOCKET: path }), true);
  assert.deepEqual(await manager.next(), { message: "FDSTORE=1\nFDNAME=fuse", files: ["/dev/null", "/dev/null"] });
  assert.equal(await notify("READY=1", [], { NOTIFY_SOCKET: path }), true);
  assert.deepEqual(await manager.next(), { message: "READY=1", files: [] });
});

test("an abstract socket is written with @", async (t) => {
  const name = `@ocifs-test-${process.pid}`;
  const manager = await NotifySocket.listen(t, name);
  assert.equal(await notify("STATUS=ü", [], { NOTIFY_SOCKET: name }), true);
  assert.deepEqual(await manager.next(), { message: "STATUS=ü", files: [] });
});

test("without a manager nothing is sent; an address that is none is refused", async (t) => {
  assert.equal(await notify("READY=1", [], {}), false);
  assert.equal(hasServiceManager({}), false);
  assert.equal(hasServiceManager({ NOTIFY_SOCKET: "/x" }), true);
  assert.match(
    (await rejectsWith(notify("READY=1", [], { NOTIFY_SOCKET: "vsock:2:1" }), "unsupported")).message,
    /vsock:2:1/,
  );
  const directory = await tempDirectory(t);
  assert.match(
    (await rejectsWith(notify("READY=1", [], { NOTIFY_SOCKET: join(directory, "none") }), "io")).message,
    /service manager/,
  );
  assert.match(
    (await rejectsWith(notify("READY=1", [], { NOTIFY_SOCKET: `/${"x".repeat(200)}` }), "usage")).message,
    /201 bytes/,
  );
  const tooMany = new Array(254).fill(0);
  assert.match(
    (await rejectsWith(notify("READY=1", tooMany, { NOTIFY_SOCKET: join(directory, "none") }), "limit")).message,
    /254 descriptors/,
  );
});

test("the watchdog's interval is half of what the manager allows, for this process only", () => {
  assert.equal(watchdogIntervalMs({}), undefined);
  assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: "30000000" }), 15_000);
  assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: "30000000", WATCHDOG_PID: String(process.pid) }), 15_000);
  assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: "30000000", WATCHDOG_PID: "1" }), undefined);
  assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: "many" }), undefined);
});
