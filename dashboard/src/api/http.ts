/** Requests for which the SDK has no method. */

import { type BandSoxError } from "bandsox";
import { described } from "./failure";
import { asking } from "./sdk";

/** Values of an address's query; what is undefined is left out. */
export type Query = Record<string, string | number | boolean | undefined>;

interface Options {
  query?: Query;
  body?: unknown;
  signal?: AbortSignal | undefined;
}

/** The address of an operation. */
export function address(path: string, query: Query = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  return search.size ? `${path}?${search}` : path;
}

/** Ask, and take the answer's JSON. Throws a BandSoxError, or a TypeError where nobody answers. */
export async function ask<Answer>(method: string, path: string, { query = {}, body, signal }: Options = {}): Promise<Answer> {
  const answer = await asking(address(path, query), {
    method,
    ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
    ...(signal ? { signal } : {}),
  });
  if (!answer.ok) throw await failed(answer);
  return (await answer.json()) as Answer;
}

/** Ask, and take the answer's bytes: at most `most` of them. */
export async function fetchBytes(path: string, query: Query, most: number): Promise<{ bytes: Uint8Array<ArrayBuffer>; whole: boolean }> {
  const answer = await asking(address(path, query));
  if (!answer.ok) throw await failed(answer);
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  let whole = true;
  const reader = answer.body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    size += value.length;
    if (size > most) {
      whole = false;
      await reader.cancel();
      break;
    }
  }
  return { bytes: new Uint8Array(await new Blob(pieces).arrayBuffer()).subarray(0, most), whole };
}

/** The failure that an answer tells of. */
export async function failed(answer: Response): Promise<BandSoxError> {
  return described(answer.status, await answer.json().catch(() => null));
}

/** The part of a path that names one thing. */
export const part = encodeURIComponent;
