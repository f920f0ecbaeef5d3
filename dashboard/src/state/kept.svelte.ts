/** A list of the server's, such as that of its snapshots, as it is now: fetched anew whenever something happens to what is in it. */

import { happenings } from "./happenings.svelte";

export class Kept<Item> {
  /** Null until it was fetched. */
  list = $state.raw<Item[] | null>(null);
  failure = $state.raw<unknown>(null);
  readonly #fetch: () => Promise<Item[]>;
  #asked = 0;

  constructor(fetch: () => Promise<Item[]>) {
    this.#fetch = fetch;
  }

  readonly load = async (): Promise<void> => {
    const asked = ++this.#asked;
    try {
      const list = await this.#fetch();
      if (asked !== this.#asked) return; // a later answer is newer
      this.list = list;
      this.failure = null;
    } catch (error) {
      if (asked === this.#asked) this.failure = error;
    }
  };

  /** Fetch it, and have it follow what happens to things of a kind, such as `snapshot`, until the function that is returned is called. */
  follow(subject: string): () => void {
    void this.load();
    return happenings.on(subject, () => void this.load());
  }
}
