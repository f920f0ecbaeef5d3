/** The server that the page came from, through the SDK of this project. */

import { BandSox, type LongCallOptions, MicroVM } from "bandsox";

/** Tells (`unknown`) when a request was refused because nobody is logged in. */
export const refusals = new EventTarget();

/** What is refused where a password is wrong, which says nothing about who is logged in. */
const PASSWORDS = new Set(["/api/auth/login", "/api/auth/password"]);

/** `fetch`, which tells of refusals. */
async function asking(...request: Parameters<typeof fetch>): Promise<Response> {
  const answer = await fetch(...request);
  if (answer.status === 401 && !PASSWORDS.has(new URL(answer.url).pathname)) refusals.dispatchEvent(new Event("unknown"));
  return answer;
}

/** How often what is read is asked for again: in about two seconds the addresses of a host have settled, however many VMs are being made there. */
const RETRIES = 4;

export const bandsox = new BandSox({ baseUrl: location.origin, fetch: asking, retries: RETRIES });

/** A handle of a VM. */
export const machine = (vm: string): MicroVM => new MicroVM(vm, bandsox);

/** Who follows long work, and gives it up with his signal. */
export type Following = LongCallOptions;
