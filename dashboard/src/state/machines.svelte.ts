/** All VMs, as they are now. */

import { asFailure, type Failure } from "../api/failure";
import type { Vm } from "../api/types";
import { bandsox, machine } from "../api/sdk";
import { happenings, type Happening } from "./happenings.svelte";
import { notices } from "./notices.svelte";

class Machines {
  /** Newest first; null until they were fetched. */
  list = $state.raw<Vm[] | null>(null);
  failure = $state.raw<Failure | null>(null);
  #loading: Promise<void> | null = null;

  find(id: string): Vm | undefined {
    return this.list?.find((vm) => vm.id === id);
  }

  /** Have the list follow what happens, until the function that is returned is called. */
  follow(): () => void {
    const stopListening = happenings.on("vm", (what) => void this.#happened(what));
    void this.load();
    const stopFollowing = happenings.follow(() => void this.load()); // what happened before it was connected
    return () => {
      stopListening();
      stopFollowing();
    };
  }

  /** Fetch all; calls that meet share one request. */
  load(): Promise<void> {
    this.#loading ??= this.#fetch().finally(() => (this.#loading = null));
    return this.#loading;
  }

  /** Fetch one anew, which may have gone. */
  async refresh(id: string): Promise<void> {
    try {
      this.#put(await machine(id).getInfo());
    } catch (error) {
      if (asFailure(error).code !== "vm_not_found") throw error;
      this.forget(id);
    }
  }

  forget(id: string): void {
    this.list = this.list?.filter((vm) => vm.id !== id) ?? null;
  }

  async #happened({ type, subject }: Happening): Promise<void> {
    try {
      if (type === "lost") await this.load();
      else if (subject === undefined) return;
      else if (type === "vm.deleted") this.forget(subject);
      else await this.refresh(subject);
    } catch (error) {
      notices.failed(error);
    }
  }

  async #fetch(): Promise<void> {
    try {
      this.list = await bandsox.listVms();
      this.failure = null;
    } catch (error) {
      this.failure = asFailure(error);
    }
  }

  #put(vm: Vm): void {
    const others = this.list ?? [];
    const place = others.findIndex((each) => each.id === vm.id);
    this.list = place < 0 ? [vm, ...others] : others.with(place, vm);
  }
}

export const machines = new Machines();
