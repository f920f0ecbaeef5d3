/** What somebody asks for with a button: it is done, it is said what was done or why it was not, and what is shown is fetched anew. */

import { notices } from "./notices.svelte";

/** `told` says what was done, in words. `again` fetches what is shown; it must not fail. */
export async function attempt<T>(
  work: () => Promise<T>,
  told: string | ((result: T) => string),
  again?: () => Promise<unknown>,
): Promise<void> {
  try {
    const result = await work();
    notices.done(typeof told === "string" ? told : told(result));
  } catch (error) {
    notices.failed(error);
  }
  await again?.();
}
