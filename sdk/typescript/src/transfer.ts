/** Files on their way, as streams of constant memory: bodies out of whatever a program has, and answers that go on when they break off. */

import { type Connection, type Opened, pause } from "./connection.js";
import { BandSoxError, HostError, InvalidRequest, OutcomeUnknown, describedError } from "./errors.js";
import { type CallOptions, type UploadContent } from "./types.js";

const FIRST_PAUSE_MS = 100;
const PIECE = 256 << 10;

/** The part of `XMLHttpRequest` that is used here: of browsers, whose `fetch` tells nothing of an upload and streams none over HTTP/1.1. */
type XHR = InstanceType<typeof XMLHttpRequest>;

/** A body for `fetch` of what a program gives, with the number of bytes where that is known. */
export function bodyOf(content: UploadContent, onProgress?: (bytes: number) => void): BodyInit {
  if (typeof content === "string" || content instanceof Uint8Array || content instanceof ArrayBuffer) {
    return onProgress === undefined ? content : counted(streamOf(slices(new Blob([content]))), onProgress);
  }
  if (content instanceof Blob) return onProgress === undefined ? content : counted(streamOf(slices(content)), onProgress);
  return counted(content instanceof ReadableStream ? content : streamOf(content), onProgress);
}

/** A stream of what an iteration gives. */
export function streamOf(pieces: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  const iterator: AsyncIterator<Uint8Array, unknown> = pieces[Symbol.asyncIterator]();
  return new ReadableStream({
    async pull(controller) {
      const result = await iterator.next();
      if (result.done === true) controller.close();
      else controller.enqueue(result.value);
    },
    async cancel(reason) {
      await iterator.return?.(reason);
    },
  });
}

async function* slices(blob: Blob): AsyncGenerator<Uint8Array, void> {
  for (let at = 0; at < blob.size; at += PIECE) yield new Uint8Array(await blob.slice(at, at + PIECE).arrayBuffer());
}

function counted(stream: ReadableStream<Uint8Array>, onProgress?: (bytes: number) => void): ReadableStream<Uint8Array> {
  if (onProgress === undefined) return stream;
  let done = 0;
  return stream.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(piece, controller) {
        done += piece.length;
        onProgress(done);
        controller.enqueue(piece);
      },
    }),
  );
}

/** Whether this is a browser, where files are sent in another way. */
export function inBrowser(): boolean {
  return typeof XMLHttpRequest !== "undefined";
}

/** What a browser can send; a stream is refused, since it would have to be in memory. */
export function browserBody(content: UploadContent): Blob {
  if (typeof content === "string" || content instanceof Uint8Array || content instanceof ArrayBuffer) return new Blob([content]);
  if (content instanceof Blob) return content;
  throw new HostError("unsupported", "browsers send no streams over HTTP/1.1", {
    remedy: "give a Blob or a File, which is read while it is sent",
  });
}

/** Send a body from a browser, and return what it is answered. Throws as `Connection.call`. */
export async function sendFromBrowser(
  connection: Connection,
  verb: "PUT" | "POST",
  url: URL,
  body: Blob,
  onProgress: ((bytes: number) => void) | undefined,
  call: CallOptions = {},
): Promise<unknown> {
  call.signal?.throwIfAborted();
  const request: XHR = new XMLHttpRequest();
  const aborted = (): void => {
    request.abort();
  };
  call.signal?.addEventListener("abort", aborted);
  try {
    return await new Promise<unknown>((resolve, reject) => {
      request.open(verb, url.href);
      for (const [name, value] of connection.headers) request.setRequestHeader(name, value);
      request.upload.onprogress = ({ loaded }) => onProgress?.(loaded);
      request.onload = () => {
        const answer = parsed(request.responseText);
        if (request.status >= 200 && request.status < 300) resolve(answer);
        else reject(describedError(answer, request.status, request.statusText));
      };
      request.onerror = () => {
        reject(
          new OutcomeUnknown(
            "outcome_unknown",
            `the connection to ${connection.base.origin} was lost in the middle of ${verb} ${url.pathname}`,
          ),
        );
      };
      request.onabort = () => {
        reject(call.signal?.reason as Error);
      };
      request.send(body);
    });
  } finally {
    call.signal?.removeEventListener("abort", aborted);
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A body that is let go of at its end. */
export function released({ answer, release }: Opened): ReadableStream<Uint8Array> {
  const reader = answer.body?.getReader();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const result = await reader?.read();
          if (result?.done === false) {
            controller.enqueue(result.value);
            return;
          }
          controller.close();
        } catch (error) {
          controller.error(error);
        }
        release();
      },
      async cancel(reason) {
        release();
        await reader?.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}

/** One answer to a download: its body from a byte on, and the tag of the file as it is now. */
export interface Part {
  body: ReadableStream<Uint8Array>;
  /** The file's tag; undefined where it cannot be gone on with. */
  tag: string | undefined;
}

/**
 * A file's bytes. Where the connection breaks off it goes on with the rest of the same file; of a file that was changed meanwhile there is no
 * rest, and so it fails.
 *
 * @param open asks for the file from a byte on, if it still has that tag.
 */
export function resumed(
  open: (offset: number, tag: string | undefined) => Promise<Part>,
  { from, retries, signal }: { from: number; retries: number; signal: AbortSignal | undefined },
): ReadableStream<Uint8Array> {
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  let tag: string | undefined;
  let offset = from;
  let failures = 0;

  async function read(): Promise<ReadableStreamReadResult<Uint8Array>> {
    for (;;) {
      try {
        if (reader === undefined) {
          const part = await open(offset, tag);
          reader = part.body.getReader();
          tag = part.tag;
        }
        const result = await reader.read();
        offset += result.value?.length ?? 0;
        failures = 0;
        return result;
      } catch (error) {
        signal?.throwIfAborted();
        reader = undefined;
        const final = (error instanceof BandSoxError && !error.retryable) || tag === undefined || failures >= retries;
        if (final) throw error instanceof BandSoxError ? error : broken(error);
        await pause(FIRST_PAUSE_MS * 2 ** failures, signal);
        failures++;
      }
    }
  }

  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await read();
          if (done) controller.close();
          else controller.enqueue(value);
        } catch (error) {
          controller.error(error);
        }
      },
      async cancel(reason) {
        await reader?.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}

/** The error of a file that is not the one whose beginning was read. */
export function changed(path: string): BandSoxError {
  return new InvalidRequest("conflict", `${path} was changed while it was read`, { remedy: "read it again" });
}

function broken(cause: unknown): BandSoxError {
  return new HostError("server_unavailable", "the connection was lost in the middle of a file", { cause, retryable: true });
}
