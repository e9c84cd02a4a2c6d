import assert from "node:assert/strict";
import { test } from "node:test";
import { isOcifsError } from "../../src/base/errors.js";
import {
  formatMountHelp,
  type MountCaller,
  type MountRequest,
  parseMountCommand,
} from "../../src/cli/mount-grammar.js";
import { defaultMountOptions, type MountOptions, optionTable } from "../../src/cli/mount-options.js";
import { noMountFlags } from "../../src/cli/standard-words.js";

const image = "registry.example/app:1.4";
const hex = "0123456789abcdef".repeat(4);

function request(argv: string[], caller?: MountCaller): MountRequest {
  const command = parseMountCommand(argv, caller);
  assert.equal(command.kind, "mount");
  return command.kind === "mount" ? command.request : assert.fail("not a mount");
}

function refusal(argv: string[], pattern: RegExp, code = "usage", caller?: MountCaller): void {
  assert.throws(
    () => parseMountCommand(argv, caller),
    (error: unknown) => {
      assert.ok(isOcifsError(error), `${argv.join(" ")}: ${String(error)}`);
      assert.equal(error.code, code, error.message);
      assert.match(error.message, pattern);
      assert.doesNotMatch(error.message, /\n/, "one sentence");
      return true;
    },
  );
}

test("the plain form fills in every default", () => {
  assert.deepEqual(request([image, "/mnt"]), {
    source: image,
    mountpoint: "/mnt",
    options: defaultMountOptions,
    flags: noMountFlags,
    securityOptions: [],
    remount: false,
    fake: false,
    verbose: false,
    toleratedWords: [],
  });
});

test("options stand anywhere, in one word or several", () => {
  const expected = request([image, "/mnt", "-o", "oci.layer=0,driver=fuse"]);
  for (const argv of [
    ["-o", "oci.layer=0,driver=fuse", image, "/mnt"],
    [image, "-o", "oci.layer=0", "/mnt", "-o", "driver=fuse"],
    ["-ooci.layer=0", image, "/mnt", "-odriver=fuse"],
    ["oci.layer=0", image, "/mnt", "-o", "driver=fuse"],
    [image, "oci.layer=0", "-o", ",driver=fuse,,", "/mnt"],
    [`oci.image=${image}`, "oci.layer=0", "/mnt", "-o", "driver=fuse"],
    ["-o", `oci.image=${image},oci.layer=0,driver=fuse`, "/mnt"],
    ["-n", "-r", "-t", "ocifs", "-o", "ro,oci.layer=0,driver=fuse", "--", image, "/mnt"],
    ["-nrtocifs", "-o", "oci.layer=0,driver=fuse,oci.layer=0", image, "/mnt"],
  ]) {
    assert.deepEqual(request(argv), expected, argv.join(" "));
  }
});

const valueCases: [word: string, expected: Partial<MountOptions>][] = [
  ["oci.layer=0", { layer: 0 }],
  ["oci.layer=1023", { layer: 1023 }],
  [`oci.blob=${hex}`, { blob: `sha256:${hex}` }],
  [`oci.blob=sha256:${hex}`, { blob: `sha256:${hex}` }],
  [`oci.blob=sha512:${hex}${hex}`, { blob: `sha512:${hex}${hex}` }],
  ["oci.platform=linux/arm64", { platform: "linux/arm64" }],
  ["oci.platform=linux/arm/v7", { platform: "linux/arm/v7" }],
  ["oci.tarindex=a.tarindex,oci.zinfo=b=c", { tarindex: "a.tarindex", zinfo: "b=c" }],
  ["oci.tarindex=/a b/ü", { tarindex: "/a b/ü" }],
  ['oci.tarindex="a,b",oci.zinfo=c\\,d', { tarindex: "a,b", zinfo: "c,d" }],
  ["oci.username=u,oci.password=p=:@\\d", { username: "u", password: "p=:@\\d" }],
  ["oci.username=u,oci.password_file=p", { username: "u", passwordFile: "p" }],
  ["oci.insecure", { insecure: true }],
  ["oci.insecure=true", { insecure: true }],
  ["oci.insecure=1", { insecure: true }],
  ["oci.insecure=false", { insecure: false }],
  ["oci.insecure=0", { insecure: false }],
  ["driver=auto", { driver: "auto" }],
  ["driver=erofs", { driver: "erofs" }],
  ["driver=fanotify", { driver: "fanotify" }],
  ["driver=fuse-native", { driver: "fuse-native" }],
  ["daemon=own", { daemon: "own" }],
  ["metrics=127.0.0.1:9464", { metrics: { host: "127.0.0.1", port: 9464 } }],
  ["cachedir=cache", { cacheDir: "cache" }],
  ["cachesize=4096", { cacheSizeBytes: 4096 }],
  ["cachesize=1k", { cacheSizeBytes: 1024 }],
  ["cachesize=512M", { cacheSizeBytes: 512 * 2 ** 20 }],
  ["cachesize=10G", { cacheSizeBytes: 10 * 2 ** 30 }],
  ["cachesize=2T", { cacheSizeBytes: 2 * 2 ** 40 }],
  ["onerror=retry", { onError: "retry" }],
  ["timeout=30", { timeoutMs: 30_000 }],
  ["timeout=30s", { timeoutMs: 30_000 }],
  ["timeout=2m", { timeoutMs: 120_000 }],
  ["timeout=24h", { timeoutMs: 86_400_000 }],
  ["timeout=250ms", { timeoutMs: 250 }],
  ["verify=span", { verify: "span" }],
  ["prefetch=idle", { prefetch: "idle" }],
  ["profile=off", { profile: "off" }],
  ["prefetchrate=2M", { prefetchBytesPerSecond: 2 << 20 }],
  ["allow_other", { allowOther: true }],
  ["foreground", { foreground: true }],
  ["oci.hosts=certs.d", { hostsDir: "certs.d" }],
  ["log=debug", { log: { level: "debug" } }],
  ["log=warn:/var/log/a:b.log", { log: { level: "warn", path: "/var/log/a:b.log" } }],
];

test("every option's values arrive as typed values", () => {
  for (const [word, expected] of valueCases) {
    assert.deepEqual(request(["-o", word, image, "/mnt"]).options, { ...defaultMountOptions, ...expected }, word);
  }
  const seen = new Set(
    valueCases.flatMap(([word]) => optionTable.filter(({ key }) => word.includes(key)).map(({ key }) => key)),
  );
  assert.deepEqual(
    [...seen].sort(),
    optionTable
      .map(({ key }) => key)
      .filter((key) => key !== "oci.image")
      .sort(),
  );
});

test("a value in a word of its own is taken verbatim, commas and quotes included", () => {
  const { options } = request(["oci.username=u", 'oci.password=a,b"\\,', image, "/mnt"]);
  assert.equal(options.password, 'a,b"\\,');
});

test("values that make no sense are refused and the message says what is wanted", () => {
  const cases: [string, RegExp][] = [
    ["oci.layer", /oci\.layer.*no value/],
    ["oci.layer=", /no value/],
    ["oci.layer=-1", /0 to 1023/],
    ["oci.layer=01", /0 to 1023/],
    ["oci.layer=1024", /0 to 1023/],
    ["oci.layer=0x1", /0 to 1023/],
    ["oci.layer=1 ", /0 to 1023/],
    ["oci.blob=abc", /digest/],
    [`oci.blob=${hex.toUpperCase()}`, /digest/],
    [`oci.blob=md5:${hex}`, /digest/],
    ["oci.platform=linux", /os\/arch/],
    ["oci.platform=linux/arm/v7/x", /os\/arch/],
    ["oci.platform=/arm", /os\/arch/],
    ["oci.insecure=yes", /true, false, 1 or 0/],
    ["oci.insecure=", /true, false, 1 or 0/],
    ["allow_other=maybe", /true, false, 1 or 0/],
    ["driver=nbd", /one of auto, fuse, erofs, fanotify, fuse-native/],
    ["driver", /one of/],
    ["cachesize=0", /size above zero/],
    ["cachesize=1.5G", /size above zero/],
    ["cachesize=10GB", /size above zero/],
    ["cachesize=9999999999T", /size above zero/],
    ["cachesize=", /no value/],
    ["onerror=ignore", /eio, retry/],
    ["timeout=0", /above zero/],
    ["timeout=-1", /above zero/],
    ["timeout=25h", /up to 24h/],
    ["timeout=1d", /above zero/],
    ["timeout=s", /above zero/],
    ["verify=all", /blob, span, none/],
    ["prefetch=yes", /none, idle, all/],
    ["profile=yes", /on, off/],
    ["prefetchrate=0", /size above zero/],
    ["log=trace", /error, warn, info, debug/],
    ["log=info:", /no value/],
  ];
  for (const [word, pattern] of cases) refusal(["-o", word, image, "/mnt"], pattern);
});

test("keys match exactly; unknown ones are errors that list the known ones", () => {
  refusal(["-o", "oci.layers=1", image, "/mnt"], /oci\.layers: unknown.*oci\.layer, oci\.blob/);
  refusal(["-s", "-o", "oci.layers=1", image, "/mnt"], /unknown/);
  refusal(["oci.foo=1", image, "/mnt"], /oci\.foo: unknown/);
  refusal(["-o", "oci.", image, "/mnt"], /unknown/);
  refusal(["-o", "oci", image, "/mnt"], /unknown/);
  refusal(["-o", "OCI.layer=1", image, "/mnt"], /unknown/);
  refusal(["-o", "layer=1", image, "/mnt"], /layer: unknown.*driver, cachedir/);
  refusal(["-o", "=x", image, "/mnt"], /=x: unknown/);
  refusal(["-o", "ro=1", image, "/mnt"], /ro: unknown/);
  refusal(["-o", "x-", image, "/mnt"], /unknown/);
});

test("one value each", () => {
  refusal(["-o", "oci.layer=0,oci.layer=1", image, "/mnt"], /given twice/);
  refusal(["oci.layer=0", "-o", "oci.layer=1", image, "/mnt"], /given twice/);
  refusal(["-o", "oci.insecure,oci.insecure=false", image, "/mnt"], /given twice/);
  refusal(["-o", `oci.layer=0,oci.blob=${hex}`, image, "/mnt"], /cannot stand beside/);
  refusal(["-o", "oci.zinfo=z", image, "/mnt"], /needs oci\.tarindex/);
  refusal(["-o", "oci.username=u", image, "/mnt"], /needs oci\.password or oci\.password_file/);
  refusal(["-o", "oci.password=p", image, "/mnt"], /needs oci\.username/);
  refusal(["-o", "oci.username=u,oci.password=p,oci.password_file=f", image, "/mnt"], /cannot stand beside/);
});

test("no message repeats a secret", () => {
  const secret = "hunter2";
  for (const words of [
    `oci.password=${secret}`,
    `oci.username=u,oci.password=${secret},oci.password=x${secret}`,
    `oci.username=u,oci.password="${secret}`,
    `oci.username=u,oci.passwort=${secret}`,
    `password=${secret}`,
  ]) {
    assert.throws(
      () => parseMountCommand(["-o", words, image, "/mnt"]),
      (error: unknown) => isOcifsError(error, "usage") && !error.message.includes(secret),
      words,
    );
  }
});

test("SOURCE and DIR, no less and no more", () => {
  refusal([], /no source/);
  refusal([image], /no mountpoint/);
  refusal([image, ""], /no mountpoint/);
  refusal(["", "/mnt"], /no source/);
  refusal([image, "/mnt", "extra"], /too many/);
  refusal([`oci.image=${image}`], /no mountpoint/);
  refusal([`oci.image=${image}`, image, "/mnt"], /give one of them/);
  refusal([`oci.image=${image}`, "a", "b", "c"], /give one of them/);
  assert.equal(request(["oci:/layout:tag", "/mnt"]).source, "oci:/layout:tag");
  assert.equal(request(["oci.example/app", "/mnt"]).source, "oci.example/app");
  assert.equal(request([image, "--", "oci.layer=0"]).mountpoint, "oci.layer=0", "behind -- nothing is an option");
  assert.equal(request([image, "-"]).mountpoint, "-");
});

test("letters", () => {
  assert.equal(request(["-f", image, "/mnt"]).fake, true);
  assert.equal(request(["-sfnv", image, "/mnt"]).verbose, true);
  assert.deepEqual(request(["-s", "-o", "foo,bar=1,ro", image, "/mnt"]).toleratedWords, ["foo", "bar"]);
  assert.deepEqual(parseMountCommand(["-V"]), { kind: "version" });
  assert.deepEqual(parseMountCommand(["--version"]), { kind: "version" });
  assert.deepEqual(parseMountCommand(["-h", "-V"]), { kind: "help" });
  assert.deepEqual(parseMountCommand(["--help"]), { kind: "help" });
  refusal(["-x", image, "/mnt"], /-x: unknown/);
  refusal(["--verbose", image, "/mnt"], /--verbose: unknown/);
  refusal([image, "/mnt", "-o"], /-o: its value is missing/);
  refusal([image, "/mnt", "-t"], /-t: its value is missing/);
  refusal([image, "/mnt", "-o", 'context="a'], /quote/);
});

test("-t takes our own type only, -N is passed on as it is", () => {
  assert.equal(request([image, "/mnt", "-t", "fuse.ocifs"]).source, image);
  refusal([image, "/mnt", "-t", "erofs"], /-t erofs/);
  refusal([image, "/mnt", "-t", "ocifs.sub"], /-t ocifs\.sub/);
  assert.equal(request([image, "/mnt", "-N", "/proc/6044/fd/4"]).namespace, "/proc/6044/fd/4");
  assert.equal(request([image, "/mnt", "-N12"]).namespace, "12");
  assert.equal("namespace" in request([image, "/mnt"]), false);
});

test("remount takes the options that the kernel shows, and stays read-only", () => {
  const shown = "ro,nosuid,relatime,remount,noexec,user_id=0,group_id=0,default_permissions,allow_other";
  const { remount, flags } = request([image, "/mnt", "-o", shown]);
  assert.deepEqual([remount, flags.nosuid, flags.noexec, flags.nodev], [true, true, true, false]);
  assert.equal(request([image, "/mnt", "-o", "ro"]).remount, false);
  refusal([image, "/mnt", "-o", "user_id=0"], /user_id: unknown option/);
  refusal([image, "/mnt", "-o", "remount,nosuchoption"], /nosuchoption: unknown option/);
  refusal([image, "/mnt", "-o", "remount,rw"], /rw: .*read-only/);
  assert.equal(request([image, "/mnt", "-o", "rw,remount"], "mount8").remount, true);
});

test("rw is refused, unless it is the one that mount(8) adds by itself", () => {
  refusal([image, "/mnt", "-o", "rw"], /rw: .*read-only/);
  refusal([image, "/mnt", "-o", "ro,oci.layer=0,rw"], /rw: .*read-only/);
  refusal([image, "/mnt", "-w"], /-w: .*read-only/);
  refusal([image, "/mnt", "-rw"], /-w: .*read-only/);
  refusal([image, "/mnt", "-w"], /-w: .*read-only/, "usage", "mount8");
  assert.equal(request([image, "/mnt", "-o", "rw,ro"]).source, image, "the last word counts, as with mount(8)");
  assert.equal(request([image, "/mnt", "-w", "-r"]).source, image);
  assert.equal(request([image, "/mnt", "-o", "rw,oci.layer=0"], "mount8").options.layer, 0);
});

// What util-linux 2.38.1 passed to a helper, recorded for the command or fstab line in the comment.
test("what mount(8) really passes is understood", () => {
  const cases: { args: string[]; flags?: Partial<typeof noMountFlags>; layer?: number }[] = [
    { args: ["-o", "rw"] }, // mount -t ocifs SRC DIR; the same for -o defaults
    { args: ["-o", "ro"] }, // mount -r, -o ro
    { args: ["-f", "-o", "rw"] }, // mount -f
    { args: ["-s", "-n", "-v", "-o", "rw,oci.layer=0"], layer: 0 }, // mount -n -v -s -o oci.layer=0
    {
      args: ["-o", "rw,noexec,nosuid,nodev,oci.layer=0,user"],
      layer: 0,
      flags: { noexec: true, nosuid: true, nodev: true },
    }, // fstab: user,oci.layer=0
    { args: ["-o", "rw,nosuid,nodev,user,exec"], flags: { nosuid: true, nodev: true } }, // user,exec
    { args: ["-o", "rw,nodev,user,exec,suid"], flags: { nodev: true } }, // user,exec,suid
    { args: ["-o", "rw,nosuid,nodev,user=joe,exec"], flags: { nosuid: true, nodev: true } }, // rw,user=joe,group
    {
      args: ["-o", "ro,noexec,nosuid,nodev,oci.layer=0,users"],
      layer: 0,
      flags: { noexec: true, nosuid: true, nodev: true },
    }, // ro,oci.layer=0,users,noauto
    { args: ["-o", "rw,nosuid,nodev,oci.layer=0,_netdev,nofail"], layer: 0, flags: { nosuid: true, nodev: true } }, // with x-systemd.automount,comment=foo
    { args: ["-o", "rw,helper=x,uhelper=y"] }, // X-mount.mkdir,x-initrd.mount,helper=x,uhelper=y
    { args: ["-o", "rw,nosymfollow"], flags: { nosymfollow: true } }, // -o ro -o nosymfollow,rw
    {
      args: [
        "-o",
        "rw,noatime,relatime,strictatime,lazytime,sync,mand,silent,dirsync,iversion,noexec,nosuid,nodev,user",
      ],
      flags: {
        noatime: true,
        relatime: true,
        strictatime: true,
        silent: true,
        noexec: true,
        nosuid: true,
        nodev: true,
      },
    },
  ];
  for (const { args, flags, layer } of cases) {
    const parsed = request([image, "/mnt", ...args], "mount8");
    assert.deepEqual(parsed.flags, { ...noMountFlags, ...flags }, args.join(" "));
    assert.equal(parsed.options.layer, layer);
  }
});

test("fstab's and systemd's own words pass when they come directly", () => {
  const words =
    "defaults,auto,noauto,nofail,_netdev,user,users,nouser,user=joe,owner,group,comment=a b,x-systemd.idle-timeout=5,X-foo";
  const write =
    "async,sync,dirsync,mand,nomand,lazytime,nolazytime,iversion,noiversion,loud,atime,diratime,norelatime,nostrictatime";
  assert.deepEqual(request([image, "/mnt", "-o", `${words},${write},dev,suid,exec,symfollow`]).flags, noMountFlags);
  assert.equal(request([image, "/mnt", "-o", "nosuid,suid,nodev"]).flags.nosuid, false, "the last word counts");
});

test("SELinux contexts are handed on verbatim", () => {
  const context = 'context="system_u:object_r:tmp_t:s0:c127,c456"';
  assert.deepEqual(request([image, "/mnt", "-o", `rw,${context},fscontext=a`], "mount8").securityOptions, [
    context,
    "fscontext=a",
  ]);
  refusal(["-o", "context", image, "/mnt"], /unknown/);
});

test("help names every option and every letter", () => {
  const help = formatMountHelp();
  for (const { key, help: text } of optionTable) {
    assert.ok(help.includes(`  ${key}`), key);
    assert.ok(help.includes(text), key);
  }
  for (const line of help.split("\n")) assert.ok(line.length <= 120, line);
});
