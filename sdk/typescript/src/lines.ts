/** Answers that go on: a line of JSON for each thing that happens, and an empty one at least every 15 seconds. */

import { type BandSoxError, HostError, describedError } from "./errors.js";

/** The media type of lines of JSON. */
export const LINES = "application/x-ndjson";

/** Milliseconds of silence after which a connection counts as lost: three of the server's empty lines. */
const SILENCE_MS = 45_000;

/** How long a line may be, in characters. */
const MAX_LINE = 16 << 20;

/** One thing that happened. */
export type Line = Record<string, unknown>;

/**
 * The lines of an answer.
 *
 * @throws BandSoxError: what the server says in its last line. HostError: the connection was lost, or silent for too long.
 */
export async function* linesOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Line, void, undefined> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await withinSilence(reader);
      text += decoder.decode(value, { stream: !done });
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      if (text.length > MAX_LINE) throw lost("a line has no end");
      for (const line of lines) if (line !== "") yield checked(JSON.parse(line) as Line);
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => undefined); // it may have failed already
  }
}

async function withinSilence(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<ReadableStreamReadResult<Uint8Array>> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(lost(`nothing came for ${SILENCE_MS} ms`));
    }, SILENCE_MS);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } finally {
    clearTimeout(timer);
  }
}

function checked(line: Line): Line {
  if (line.type === "error") throw describedError(line.failure);
  return line;
}

function lost(cause: unknown): BandSoxError {
  return new HostError("server_unavailable", "the connection to the server was lost", { cause, retryable: true });
}
