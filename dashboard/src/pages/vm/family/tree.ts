/** Where VMs and snapshots come from, as a tree: of what each was made, and what was made of it. */

import type { Snapshot, Vm } from "../../../api/types";

export type Kind = "vm" | "snapshot" | "checkpoint" | "template" | "gone";

export interface Relative {
  id: string;
  kind: Kind;
  name: string;
  vm: Vm | null;
  /** The VM whose checkpoint it is, or the template's key. */
  owner: string | null;
  children: Relative[];
}

/** A relative with its place: columns of generations, rows of leaves. */
export interface Placed {
  relative: Relative;
  x: number;
  y: number;
  parent: Placed | null;
}

/** The tree that a VM belongs to, from its oldest known ancestor on.
 *
 * What belongs to something (a checkpoint, a template) has a place in it where another VM came of it. That a VM was rewound is no descent: it
 * comes from where it came from before, also where the checkpoint was deleted since.
 */
export function familyOf(vm: Vm, vms: readonly Vm[], snapshots: readonly Snapshot[]): Relative {
  const taken = new Map(snapshots.map((each) => [each.id, each]));
  const known = new Map<string, Relative>();
  const origins = new Map<string, string>();
  const descends = (machine: string, from: string | null): void => {
    const origin = beforeRewinds(machine, from, taken);
    if (origin !== null) origins.set(machine, origin);
  };
  for (const each of snapshots) {
    known.set(each.id, {
      id: each.id,
      kind: kindOf(each),
      name: nameOf(each),
      vm: null,
      owner: each.belongs_to?.owner ?? null,
      children: [],
    });
    if (!each.belongs_to) origins.set(each.id, each.source_vm_id);
    descends(each.source_vm_id, each.parent); // the machine may be gone; its snapshot remembers
  }
  for (const each of vms) {
    known.set(each.id, { id: each.id, kind: "vm", name: each.name, vm: each, owner: null, children: [] });
    if (!wentOnAsItself(each) || taken.has(each.restored_from ?? "")) descends(each.id, each.restored_from);
  }
  for (const origin of new Set(origins.values())) {
    const snapshot = taken.get(origin);
    if (snapshot?.belongs_to?.purpose === "checkpoint") origins.set(origin, snapshot.source_vm_id);
  }
  for (const [child, parent] of [...origins]) {
    for (const id of [child, parent]) {
      if (!known.has(id)) known.set(id, { id, kind: "gone", name: id.slice(0, 12), vm: null, owner: null, children: [] });
    }
    known.get(parent)!.children.push(known.get(child)!);
  }
  return known.get(oldest(vm.id, origins))!;
}

function kindOf({ belongs_to }: Snapshot): Kind {
  return belongs_to?.purpose === "checkpoint" || belongs_to?.purpose === "template" ? belongs_to.purpose : "snapshot";
}

function nameOf({ belongs_to, snapshot_name }: Snapshot): string {
  if (belongs_to?.purpose === "checkpoint") return belongs_to.label;
  return belongs_to?.purpose === "template" ? belongs_to.owner.slice(0, 12) : snapshot_name;
}

/** Whether a VM went on with its own identity the last time that it did: it was rewound, or woken. What it went on from was no other's. */
function wentOnAsItself({ receipt }: Vm): boolean {
  return receipt?.machine_id === null;
}

/** Of what a machine was made that went on `from` there the last time: its own checkpoints, each of which remembers its forerunner, are left out. */
function beforeRewinds(machine: string, from: string | null, taken: ReadonlyMap<string, Snapshot>): string | null {
  const met = new Set<string>();
  for (let at = from; at !== null && !met.has(at);) {
    met.add(at);
    const snapshot = taken.get(at);
    if (snapshot?.source_vm_id !== machine) return at;
    at = snapshot.parent;
  }
  return null;
}

/** The first of the line that leads to `id`. What the records say is not trusted to have no circle. */
function oldest(id: string, origins: ReadonlyMap<string, string>): string {
  const met = new Set([id]);
  for (let at = id; ;) {
    const before = origins.get(at);
    if (before === undefined || met.has(before)) return at;
    met.add(before);
    at = before;
  }
}

/** Every relative with its place, `most` of them at most; one is never placed twice. */
export function placed(root: Relative, most: number): Placed[] {
  const all: Placed[] = [];
  const met = new Set<string>();
  let row = 0;
  function place(relative: Relative, x: number, parent: Placed | null): void {
    if (met.has(relative.id) || all.length >= most) return;
    met.add(relative.id);
    const here: Placed = { relative, x, y: row, parent };
    all.push(here);
    const before = all.length;
    for (const child of relative.children) place(child, x + 1, here);
    if (all.length === before) row += 1;
  }
  place(root, 0, null);
  return all;
}
