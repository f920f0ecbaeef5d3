/** Paths of a guest, which are text to us and nothing else. */

export const ROOT = "/";

/** The path of a name in a directory. */
export function below(directory: string, name: string): string {
  return directory === ROOT ? `/${name}` : `${directory}/${name}`;
}

export function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/")) || ROOT;
}

export function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** The path without doubled and trailing slashes, `.` and `..`; always an absolute one. */
export function normal(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return ROOT + parts.join("/");
}

/** The directories that lead to a path, the root first, itself last. */
export function trail(path: string): { name: string; path: string }[] {
  const parts = path.split("/").filter(Boolean);
  return [{ name: ROOT, path: ROOT }, ...parts.map((name, index) => ({ name, path: ROOT + parts.slice(0, index + 1).join("/") }))];
}

/** Whether a name came whole: one that is no UTF-8 has lost what was not, and does not lead back to its file. */
export function isWhole(name: string): boolean {
  return !name.includes("\ufffd");
}

/** Why a text cannot be a file's name; null where it can. */
export function faultOf(name: string): string | null {
  if (name === "" || name === "." || name === "..") return "a file has another name";
  return /[/\0]/.test(name) ? "a name has no slash in it" : null;
}
