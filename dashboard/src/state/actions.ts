/** What may be done with a VM, by its status: one table for rows, for many at once, and for a VM's own page. */

import type { Vm, VmStatus } from "../api/types";
import { bandsox } from "../api/sdk";
import { count } from "../format";
import { confirmations } from "./confirmation.svelte";
import { machines } from "./machines.svelte";
import { notices } from "./notices.svelte";

export type Verb = "start" | "resume" | "wake" | "pause" | "hibernate" | "stop" | "delete";

interface Action {
  label: string;
  done: string;
  fits: readonly VmStatus[];
  run: (vm: string) => Promise<unknown>;
}

export const ACTIONS: Record<Verb, Action> = {
  start: { label: "Start", done: "Started", fits: ["stopped", "dead"], run: (vm) => bandsox.startVm(vm) },
  resume: { label: "Resume", done: "Resumed", fits: ["paused"], run: (vm) => bandsox.resumeVm(vm) },
  wake: { label: "Wake", done: "Woke", fits: ["saved"], run: (vm) => bandsox.resumeVm(vm) },
  pause: { label: "Pause", done: "Paused", fits: ["running"], run: (vm) => bandsox.pauseVm(vm) },
  hibernate: { label: "Hibernate", done: "Hibernated", fits: ["running", "paused"], run: (vm) => bandsox.hibernateVm(vm) },
  stop: { label: "Stop", done: "Stopped", fits: ["running", "paused"], run: (vm) => bandsox.stopVm(vm) },
  delete: { label: "Delete", done: "Deleted", fits: ["running", "paused", "saved", "stopped", "dead"], run: (vm) => bandsox.deleteVm(vm) },
};

export const VERBS = Object.keys(ACTIONS) as Verb[];

export function fits(verb: Verb, vm: Vm): boolean {
  return ACTIONS[verb].fits.includes(vm.status);
}

/** Do something with all VMs that it fits, a few at a time; whether it was done. What fails is told, and does not keep the others from it. */
export async function act(verb: Verb, chosen: readonly Vm[]): Promise<boolean> {
  const targets = chosen.filter((vm) => fits(verb, vm));
  if (!targets.length || (verb === "delete" && !(await mayDelete(targets)))) return false;
  const { run, done } = ACTIONS[verb];
  const waiting = [...targets];
  let succeeded = 0;
  async function work(): Promise<void> {
    for (let vm = waiting.shift(); vm; vm = waiting.shift()) {
      try {
        await run(vm.id);
        succeeded += 1;
        if (verb === "delete") machines.forget(vm.id);
        else await machines.refresh(vm.id);
      } catch (error) {
        notices.failed(error);
      }
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (succeeded) notices.done(targets.length === 1 ? `${done} ${targets[0]!.name}` : `${done} ${count(succeeded, "VM")}`);
  return succeeded === targets.length;
}

const AT_ONCE = 4;

function mayDelete(targets: Vm[]): Promise<boolean> {
  const one = targets.length === 1;
  return confirmations.ask({
    title: `Delete ${one ? targets[0]!.name : count(targets.length, "VM")}?`,
    text: one
      ? "What runs in it ends, and its disk is removed. Snapshots that were taken of it stay."
      : "What runs in them ends, and their disks are removed. Snapshots that were taken of them stay.",
    action: "Delete",
  });
}
