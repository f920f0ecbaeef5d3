/** Files as a tar archive (POSIX pax, as in IEEE Std 1003.1-2017, `pax`), made of parts that are not copied: a file of a browser stays where it is. */

const BLOCK = 512;
const encoder = new TextEncoder();

/** A file's content, the size of which is known. */
export type Content = string | Uint8Array<ArrayBuffer> | Blob;

/** An archive of files by their paths, which are relative. */
export function archive(files: Iterable<[path: string, content: Content]>): Blob {
  const parts: BlobPart[] = [];
  for (const [path, content] of files) {
    const data = typeof content === "string" ? encoder.encode(content) : content;
    const size = data instanceof Blob ? data.size : data.length;
    const name = encoder.encode(path);
    if (name.length > 100 || size >= 8 ** 11) parts.push(...extended(path, size));
    parts.push(header(name, size, "0"), data, padding(size));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts);
}

/** What comes before a file whose name or size has no room in a plain header. */
function extended(path: string, size: number): BlobPart[] {
  const records = encoder.encode(record("path", path) + record("size", String(size)));
  return [header(encoder.encode("pax"), records.length, "x"), records, padding(records.length)];
}

/** `LENGTH KEY=VALUE\n`, in which the length counts itself. */
function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  const bytes = encoder.encode(rest).length;
  let length = bytes + String(bytes).length;
  if (String(length).length > String(bytes).length) length = bytes + String(length).length;
  return `${length}${rest}`;
}

function header(name: Uint8Array, size: number, type: string): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(BLOCK);
  const put = (at: number, text: string): void => void encoder.encodeInto(text, block.subarray(at));
  const octal = (value: number, digits: number): string => value.toString(8).padStart(digits, "0");
  block.set(name.subarray(0, 100));
  put(
    100,
    `${octal(0o644, 7)}\0${octal(0, 7)}\0${octal(0, 7)}\0${octal(size < 8 ** 11 ? size : 0, 11)}\0${octal(Math.floor(Date.now() / 1000), 11)}\0`,
  );
  put(148, " ".repeat(8)); // the checksum counts itself as spaces
  put(156, type);
  put(257, "ustar\x0000");
  put(
    148,
    `${octal(
      block.reduce((sum, byte) => sum + byte, 0),
      6,
    )}\0 `,
  );
  return block;
}

function padding(size: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}
