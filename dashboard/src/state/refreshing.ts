/** Something that is fetched anew when there is news, however many news there are: never twice at once, and not more often than people can read. */

const REST_MS = 1000;

export class Refreshing {
  readonly #work: () => Promise<unknown>;
  #news = false;
  #working = false;

  /** `work` must not fail. */
  constructor(work: () => Promise<unknown>) {
    this.#work = work;
  }

  /** There is news. */
  readonly tell = (): void => {
    this.#news = true;
    if (!this.#working) void this.#run();
  };

  async #run(): Promise<void> {
    this.#working = true;
    while (this.#news) {
      this.#news = false;
      await this.#work();
      await new Promise((resolve) => setTimeout(resolve, REST_MS));
    }
    this.#working = false;
  }
}
