/** Metadata as lines of a form. A value that is no text is written as JSON; so is a text that would otherwise read as something else. */

export interface Entry {
  name: string;
  value: string;
}

export function entriesOf(metadata: Record<string, unknown>): Entry[] {
  return Object.entries(metadata).map(([name, value]) => ({ name, value: written(value) }));
}

/** The metadata that lines of a form stand for. Throws where a name is missing or there twice. */
export function metadataOf(entries: readonly Entry[]): Record<string, unknown> {
  const metadata = new Map<string, unknown>();
  for (const { name, value } of entries) {
    if (!name.trim()) throw new Error("a line has no name");
    if (metadata.has(name)) throw new Error(`${name} is there twice`);
    metadata.set(name, read(value));
  }
  return Object.fromEntries(metadata);
}

function written(value: unknown): string {
  return typeof value === "string" && read(value) === value ? value : JSON.stringify(value);
}

function read(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
