/** Which VMs the table shows, and in which order. The address holds it, so that it can be kept, sent, and gone back to. */

import type { Vm, VmStatus } from "../../api/types";
import { router } from "../../shell/router.svelte";

export type Column = "name" | "status" | "image" | "mem_mib" | "created_at";

export const STATUSES: readonly VmStatus[] = ["running", "paused", "saved", "stopped", "dead", "creating"];
export const PAGE_SIZES = [25, 50, 100, 500];

const ORDERS: Record<Column, (one: Vm, other: Vm) => number> = {
  name: (one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }),
  status: (one, other) => STATUSES.indexOf(one.status) - STATUSES.indexOf(other.status),
  image: (one, other) => one.image.localeCompare(other.image),
  mem_mib: (one, other) => one.mem_mib - other.mem_mib,
  created_at: (one, other) => one.created_at - other.created_at,
};

export class View {
  readonly #all: () => readonly Vm[];

  constructor(all: () => readonly Vm[]) {
    this.#all = all;
  }

  #given(name: string): string | null {
    return router.url.searchParams.get(name);
  }

  readonly text = $derived.by(() => this.#given("q") ?? "");
  readonly status = $derived.by(() => STATUSES.find((each) => each === this.#given("status")) ?? null);
  readonly column = $derived.by(() => (Object.keys(ORDERS) as Column[]).find((each) => each === this.#given("sort")) ?? "created_at");
  readonly descending = $derived.by(() => (this.#given("order") ?? (this.column === "created_at" ? "down" : "up")) === "down");
  readonly pageSize = $derived.by(() => PAGE_SIZES.find((each) => String(each) === this.#given("per")) ?? PAGE_SIZES[0]!);

  /** Those that the search finds, of any status. */
  readonly found = $derived.by(() => {
    const words = this.text.toLowerCase().split(/\s+/).filter(Boolean);
    return this.#all().filter((vm) => words.every((word) => searched(vm).includes(word)));
  });
  readonly counts = $derived.by(() => {
    const counts: Partial<Record<VmStatus, number>> = {};
    for (const vm of this.found) counts[vm.status] = (counts[vm.status] ?? 0) + 1;
    return counts;
  });
  readonly chosen = $derived.by(() => {
    const order = ORDERS[this.column];
    const some = this.status === null ? [...this.found] : this.found.filter((vm) => vm.status === this.status);
    return some.sort((one, other) => (this.descending ? order(other, one) : order(one, other)));
  });
  readonly pages = $derived.by(() => Math.max(1, Math.ceil(this.chosen.length / this.pageSize)));
  readonly page = $derived.by(() => Math.min(this.pages, Math.max(1, Number.parseInt(this.#given("page") ?? "1", 10) || 1)));
  readonly rows = $derived.by(() => this.chosen.slice((this.page - 1) * this.pageSize, this.page * this.pageSize));

  search(text: string): void {
    this.#change({ q: text, page: null });
  }

  show(status: VmStatus | null): void {
    this.#change({ status, page: null });
  }

  turn(page: number): void {
    this.#change({ page: page === 1 ? null : String(page) });
  }

  resize(pageSize: number): void {
    this.#change({ per: String(pageSize), page: null });
  }

  /** Sort by a column, the other way round if it is sorted by it already. */
  sort(column: Column): void {
    const down = column === this.column ? !this.descending : column === "created_at";
    this.#change({ sort: column, order: down ? "down" : "up" });
  }

  #change(values: Record<string, string | null>): void {
    router.set(values);
  }
}

function searched(vm: Vm): string {
  return `${vm.name} ${vm.id} ${vm.image} ${JSON.stringify(vm.metadata)}`.toLowerCase();
}
