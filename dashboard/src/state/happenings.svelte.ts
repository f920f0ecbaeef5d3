/** What happens on the server, as it happens, whoever does it: events, not polling. */

export interface Happening {
  id: number;
  /** Such as `vm.created`. `lost`: something was missed, so that everything has to be asked for anew. */
  type: string;
  subject: string;
  name: string;
  status: string | null;
}

type Listener = (what: Happening) => void;

class Happenings {
  /** Whether they are heard of now. */
  connected = $state(false);
  #listeners = new Map<Listener, string>();
  #source: EventSource | null = null;

  /** Listen until the function that is returned is called. The browser takes a connection that broke up again, behind the last event. */
  follow(connected: () => void): () => void {
    const source = new EventSource("/api/events");
    source.onerror = () => (this.connected = false);
    source.onmessage = ({ data }: MessageEvent<string>) => this.#told(JSON.parse(data) as Happening, connected);
    this.#source?.close();
    this.#source = source;
    return () => source.close();
  }

  /** Hear of what happens to things of a kind, such as `vm`, and of having missed something, until the function that is returned is called. */
  on(subject: string, listener: Listener): () => void {
    this.#listeners.set(listener, subject);
    return () => void this.#listeners.delete(listener);
  }

  #told(what: Happening, connected: () => void): void {
    if (what.type === "hello") {
      this.connected = true;
      connected();
      return;
    }
    const subject = what.type.split(".")[0];
    for (const [listener, wanted] of this.#listeners) if (subject === wanted || what.type === "lost") listener(what);
  }
}

export const happenings = new Happenings();
