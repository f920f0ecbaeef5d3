/** What a file's name and bytes say of its content. */

export const MOST_TEXT = 2 << 20;
export const MOST_IMAGE = 16 << 20;

const IMAGES: Record<string, string> = {
  avif: "image/avif",
  bmp: "image/bmp",
  gif: "image/gif",
  ico: "image/x-icon",
  jpeg: "image/jpeg",
  jpg: "image/jpeg",
  png: "image/png",
  svg: "image/svg+xml",
  webp: "image/webp",
};

export function extensionOf(path: string): string {
  return /\.([^./]+)$/.exec(path)?.[1]?.toLowerCase() ?? "";
}

/** The media type of an image that browsers show; null for other files. */
export function imageType(path: string): string | null {
  return IMAGES[extensionOf(path)] ?? null;
}

export function isMarkdown(path: string): boolean {
  return ["md", "markdown"].includes(extensionOf(path));
}

/** The text that bytes are; null where they are none, so that saving never changes what was not understood. */
export function textOf(bytes: Uint8Array): string | null {
  if (bytes.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}
