"""System calls on request, for tests of a mount: reads one JSON object a line, {"id", "code"}, runs the code in a thread of its
own, so that a call may block, and writes {"id", "value"}, {"id", "errno"} or {"id", "trace"}. Code is Python: an expression, or
statements that set `result`. Bytes travel as {"bytes": Latin-1 text}.
"""
import ctypes, errno, fcntl, json, mmap, os, select, signal, socket, stat, struct, sys, termios, threading, traceback

libc = ctypes.CDLL(None, use_errno=True)
mnt = os.fsencode(sys.argv[1])
lock = threading.Lock()
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, True)


def p(name=""):
    """The path of a name below the mount; text is UTF-8."""
    name = os.fsencode(name)
    return mnt + b"/" + name if name else mnt


def check(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def reading(name, flags=os.O_RDONLY):
    """An open descriptor that closes at the end of a with."""
    return open(os.open(p(name), flags), "rb", buffering=0)


def name_to_handle(name):
    """(handle type, handle bytes) of name_to_handle_at(2)."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    mount_id = ctypes.c_int()
    check(libc.name_to_handle_at(-100, p(name), buffer, ctypes.byref(mount_id), 0))
    size, kind = struct.unpack_from("Ii", buffer.raw)
    return kind, buffer.raw[8:8 + size]


def open_by_handle(kind, handle, flags=os.O_RDONLY):
    directory = os.open(mnt, os.O_RDONLY | os.O_DIRECTORY)
    try:
        buffer = ctypes.create_string_buffer(struct.pack("Ii", len(handle), kind) + handle)
        return check(libc.open_by_handle_at(directory, buffer, flags))
    finally:
        os.close(directory)


def statx(name, mask=0xFFF):
    """The first fields of struct statx."""
    buffer = ctypes.create_string_buffer(256)
    check(libc.statx(-100, p(name), 0x100, mask, buffer))
    got, blksize = struct.unpack_from("II", buffer.raw)
    nlink, uid, gid, mode = struct.unpack_from("IIIH", buffer.raw, 16)
    ino, size, blocks = struct.unpack_from("QQQ", buffer.raw, 32)
    return {"mask": got, "blksize": blksize, "nlink": nlink, "mode": mode, "ino": ino, "size": size, "blocks": blocks}


def remount(flags):
    check(libc.mount(None, mnt, None, 32 | flags, None))  # MS_REMOUNT


def umount(flags=0):
    check(libc.umount2(mnt, flags))


def in_child(action):
    """Runs action() in a forked process; the errno's name it failed with, or None."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            action()
        except OSError as error:
            said = errno.errorcode[error.errno].encode()
        except BaseException:
            said = traceback.format_exc().encode()
        os.write(write_end, said)
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said or None


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def encode(value):
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.decode("latin-1")}
    raise TypeError(f"cannot send a {type(value)}")


def say(message):
    with lock:
        print(json.dumps(message, default=encode), flush=True)


def run(request):
    answer = {"id": request["id"]}
    scope = dict(globals())
    scope["thread"] = threading.get_ident()
    try:
        try:
            code = compile(request["code"], "<request>", "eval")
            answer["value"] = eval(code, scope)
        except SyntaxError:
            exec(compile(request["code"], "<request>", "exec"), scope)
            answer["value"] = scope.get("result")
    except OSError as error:
        answer["errno"] = errno.errorcode.get(error.errno, str(error))
    except BaseException:
        answer["trace"] = traceback.format_exc()
    say(answer)


for line in sys.stdin:
    threading.Thread(target=run, args=(json.loads(line),), daemon=True).start()
os._exit(0)
