/** What happens on the server, as it happens, whoever does it: events, not polling. */

import { AccessDenied, type ServerEvent } from "bandsox";
import { bandsox, refusals } from "../api/sdk";
import { notices } from "./notices.svelte";

/** Something that happened: `type` is such as `vm.created`; `lost` says that something was missed, so that everything has to be asked for anew. */
export type Happening = ServerEvent;

type Listener = (what: Happening) => void;

class Happenings {
  #listeners = new Map<Listener, string>();

  /** Listen until the function that is returned is called; `connected` is called whenever a connection has come about. */
  follow(connected: () => void): () => void {
    const stopped = new AbortController();
    this.#listen(connected, stopped.signal).catch((error: unknown) => {
      if (stopped.signal.aborted) return;
      if (error instanceof AccessDenied) refusals.dispatchEvent(new Event("unknown"));
      else notices.failed(error);
    });
    return () => stopped.abort();
  }

  /** Hear of what happens to things of a kind, such as `vm`, and of having missed something, until the function that is returned is called. */
  on(subject: string, listener: Listener): () => void {
    this.#listeners.set(listener, subject);
    return () => void this.#listeners.delete(listener);
  }

  async #listen(connected: () => void, signal: AbortSignal): Promise<void> {
    for await (const what of bandsox.events({}, { signal })) {
      if (what.type === "hello") connected();
      else this.#tell(what);
    }
  }

  #tell(what: Happening): void {
    const subject = what.type.split(".")[0];
    for (const [listener, wanted] of this.#listeners) if (subject === wanted || what.type === "lost") listener(what);
  }
}

export const happenings = new Happenings();
