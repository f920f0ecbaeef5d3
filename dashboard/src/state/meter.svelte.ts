/** The load of a VM over the last minutes, measured while somebody looks.
 *
 * Only a running guest can be asked. One with an idle time is not, unless its own page is open: asking counts as use, and would keep it awake.
 */

import type { Load } from "../api/types";
import { machine } from "../api/sdk";

/** Of one moment: fractions of 1, and bytes per second since the moment before. */
export interface Sample {
  at: number;
  cpu: number;
  memory: number;
  disk: number;
  read: number;
  written: number;
  received: number;
  sent: number;
}

const KEPT = 60;

export class Meter {
  samples = $state.raw<Sample[]>([]);
  latest = $state.raw<Load | null>(null);
  readonly #vm: string;
  readonly #every: number;
  #stopped: AbortController | null = null;

  /** `every`: milliseconds from one answer to the next question. */
  constructor(vm: string, every: number) {
    this.#vm = vm;
    this.#every = every;
  }

  /** Measure until the function that is returned is called. */
  start(): () => void {
    const stopped = new AbortController();
    this.#stopped?.abort();
    this.#stopped = stopped;
    void this.#measure(stopped.signal);
    return () => stopped.abort();
  }

  async #measure(stopped: AbortSignal): Promise<void> {
    while (!stopped.aborted) {
      try {
        if (!document.hidden) this.#add(await machine(this.#vm).metrics({}, { signal: stopped }));
      } catch {
        // A guest that does not answer has no load; the page says elsewhere what is wrong with it.
      }
      await pause(this.#every, stopped);
    }
  }

  #add(load: Load): void {
    const before = this.latest;
    this.latest = load;
    if (!before || load.uptime_ms <= before.uptime_ms) return;
    const busy = (each: Load) => each.cpu_user_ms + each.cpu_system_ms;
    const idle = load.cpu_idle_ms - before.cpu_idle_ms;
    const worked = busy(load) - busy(before);
    const seconds = (load.uptime_ms - before.uptime_ms) / 1000;
    const sample = {
      at: Date.now(),
      cpu: fraction(worked, worked + idle + load.cpu_steal_ms - before.cpu_steal_ms),
      memory: fraction(load.memory_total - load.memory_available, load.memory_total),
      disk: fraction(load.disk_total - load.disk_free, load.disk_total),
      read: rate(before.disk_read, load.disk_read, seconds),
      written: rate(before.disk_written, load.disk_written, seconds),
      received: rate(before.network_received, load.network_received, seconds),
      sent: rate(before.network_sent, load.network_sent, seconds),
    };
    this.samples = [...this.samples, sample].slice(-KEPT);
  }
}

/** The guest says both numbers, and may say anything. */
function fraction(part: number, whole: number): number {
  const value = part / whole;
  return Number.isFinite(value) ? Math.min(1, Math.max(0, value)) : 0;
}

/** How fast a count grows; 0 where it shrinks, or is not told. */
function rate(before: number | null, now: number | null, seconds: number): number {
  return before === null || now === null ? 0 : Math.max(0, (now - before) / seconds);
}

function pause(milliseconds: number, stopped: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    const stop = () => {
      clearTimeout(timer);
      resolve();
    };
    stopped.addEventListener("abort", stop, { once: true });
  });
}
