/** Short messages about what has happened, in the corner of the page. */

import { asFailure } from "../api/failure";

export interface Notice {
  id: number;
  kind: "good" | "bad";
  text: string;
  /** What may be done about it. */
  remedy?: string | undefined;
  action?: { label: string; run: () => void } | undefined;
}

const SHOWN_MS = 6000;

class Notices {
  list = $state<Notice[]>([]);
  #next = 0;

  /** Something went well; it disappears by itself. */
  done(text: string, action?: Notice["action"]): void {
    const { id } = this.#add({ kind: "good", text, action });
    setTimeout(() => this.dismiss(id), SHOWN_MS);
  }

  /** Something failed: it stays until it is dismissed. */
  failed(error: unknown): void {
    const failure = asFailure(error);
    if (failure.code === "aborted") return;
    const text = failure.cause ? `${failure.message}: ${failure.cause}` : failure.message;
    this.#add({ kind: "bad", text, remedy: failure.remedy ?? undefined });
  }

  dismiss(id: number): void {
    this.list = this.list.filter((notice) => notice.id !== id);
  }

  #add(notice: Omit<Notice, "id">): Notice {
    const whole = { id: this.#next++, ...notice };
    this.list = [...this.list, whole].slice(-5);
    return whole;
  }
}

export const notices = new Notices();
