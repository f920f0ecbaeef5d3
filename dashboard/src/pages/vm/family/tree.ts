/** Where VMs and snapshots come from, as a tree: of what each was made, and what was made of it. */

import type { Snapshot, Vm } from "../../../api/types";

export interface Relative {
  id: string;
  kind: "vm" | "snapshot" | "gone";
  name: string;
  vm: Vm | null;
  children: Relative[];
}

/** A relative with its place: columns of generations, rows of leaves. */
export interface Placed {
  relative: Relative;
  x: number;
  y: number;
  parent: Placed | null;
}

/** The tree that a VM belongs to, from its oldest known ancestor on. */
export function familyOf(vm: Vm, vms: readonly Vm[], snapshots: readonly Snapshot[]): Relative {
  const origins = new Map<string, string>();
  const known = new Map<string, Relative>();
  for (const each of snapshots) {
    known.set(each.id, { id: each.id, kind: "snapshot", name: each.snapshot_name, vm: null, children: [] });
    origins.set(each.id, each.source_vm_id);
    if (each.parent) origins.set(each.source_vm_id, each.parent); // the machine may be gone; its snapshot remembers
  }
  for (const each of vms) {
    known.set(each.id, { id: each.id, kind: "vm", name: each.name, vm: each, children: [] });
    if (each.restored_from) origins.set(each.id, each.restored_from);
  }
  for (const [child, parent] of [...origins]) {
    for (const id of [child, parent]) {
      if (!known.has(id)) known.set(id, { id, kind: "gone", name: id.slice(0, 12), vm: null, children: [] });
    }
    known.get(parent)!.children.push(known.get(child)!);
  }
  return known.get(oldest(vm.id, origins))!;
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
