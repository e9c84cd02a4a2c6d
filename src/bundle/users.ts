import { OcifsError } from "../base/errors.js";

/** Whom a container's process runs as: `process.user` of the OCI runtime spec. */
export interface ProcessUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

/** Linux ids are 32 bits wide, and the last one means "none". */
const idMax = 0xfffffffe;

interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/**
 * Resolves `Config.User` with the image's own passwd(5) and group(5), whose text is empty where the image has none. Numbers are
 * taken as they are; a name has to be there. Without a group the user's primary group counts, and those that list him as a
 * member beside it; with one it is the only group (OCI image spec, `config.md` and `conversion.md`). Broken lines are passed over,
 * as getpwnam(3) does. Throws `not-found` for an unknown name, `corrupt` for a number out of range.
 */
export function resolveUser(user: string, passwd: string, group: string): ProcessUser {
  const colon = user.indexOf(":");
  const userText = (colon < 0 ? user : user.slice(0, colon)) || "0";
  const groupText = colon < 0 ? "" : user.slice(colon + 1);
  const people = parsePasswd(passwd);
  const number = parseId(userText);
  const entry = people.find((each) => (number === undefined ? each.name === userText : each.uid === number));
  const uid = number ?? entry?.uid;
  if (uid === undefined) {
    throw new OcifsError(
      "not-found",
      `user "${userText}" of the image's config: the image's /etc/passwd has no such name`,
    );
  }
  const groups = parseGroup(group);
  if (groupText !== "") {
    const gid = parseId(groupText) ?? groups.find((each) => each.name === groupText)?.gid;
    if (gid === undefined) {
      throw new OcifsError(
        "not-found",
        `group "${groupText}" of the image's config: the image's /etc/group has no such name`,
      );
    }
    return { uid, gid, additionalGids: [] };
  }
  const gid = entry?.gid ?? 0;
  const joined = entry === undefined ? [] : groups.filter((each) => each.members.includes(entry.name));
  const additionalGids = [...new Set(joined.map((each) => each.gid))].filter((each) => each !== gid);
  return { uid, gid, additionalGids };
}

/** A number in decimal, or undefined for a name. */
function parseId(text: string): number | undefined {
  if (!/^\d+$/.test(text)) return undefined;
  const id = Number(text);
  if (id > idMax)
    throw new OcifsError("corrupt", `id ${text.slice(0, 40)} of the image's config: Linux has 0 to ${idMax}`);
  return id;
}

function lineId(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d+$/.test(text) || Number(text) > idMax) return undefined;
  return Number(text);
}

/** Lines of NAME:PASSWORD:UID:GID:GECOS:HOME:SHELL. */
function parsePasswd(text: string): PasswdEntry[] {
  return text.split("\n").flatMap((line) => {
    const [name = "", , uidText, gidText] = line.split(":");
    const [uid, gid] = [lineId(uidText), lineId(gidText)];
    return name === "" || uid === undefined || gid === undefined ? [] : [{ name, uid, gid }];
  });
}

/** Lines of NAME:PASSWORD:GID:MEMBER,MEMBER. */
function parseGroup(text: string): GroupEntry[] {
  return text.split("\n").flatMap((line) => {
    const [name = "", , gidText, members = ""] = line.split(":");
    const gid = lineId(gidText);
    return name === "" || gid === undefined
      ? []
      : [
          {
            name,
            gid,
            members: members
              .split(",")
              .map((member) => member.trim())
              .filter((member) => member !== ""),
          },
        ];
  });
}
