/** The server that the page came from, through the SDK of this project. */

import { BandSox } from "bandsox";

/** Tells (`unknown`) when a request was refused because nobody is logged in. */
export const refusals = new EventTarget();

/** `fetch`, which tells of refusals. */
export async function asking(...request: Parameters<typeof fetch>): Promise<Response> {
  const answer = await fetch(...request);
  if (answer.status === 401) refusals.dispatchEvent(new Event("unknown"));
  return answer;
}

export const bandsox = new BandSox({ baseUrl: location.origin, fetch: asking });
