/** How much a key's VMs may have, as fields of a form and as words. */

import type { Quotas } from "../../api/types";
import { mebibytes } from "../../format";

interface Kind {
  quota: keyof Quotas;
  label: string;
  say: (most: number) => string;
}

export const QUOTAS: readonly Kind[] = [
  { quota: "vms", label: "VMs", say: (most) => `${most} VMs` },
  { quota: "vcpu", label: "CPUs", say: (most) => `${most} CPUs` },
  { quota: "mem_mib", label: "Memory (MiB)", say: mebibytes },
  { quota: "disk_mib", label: "Disk (MiB)", say: (most) => `${mebibytes(most)} disk` },
  { quota: "creates_per_minute", label: "New in a minute", say: (most) => `${most} new a minute` },
];

export const NO_QUOTAS: Quotas = { vms: null, vcpu: null, mem_mib: null, disk_mib: null, creates_per_minute: null };

/** The quotas in words; `used` is how much there is of each by now. */
export function told(quotas: Quotas, used: Partial<Record<keyof Quotas, number>>): string {
  const words = QUOTAS.flatMap(({ quota, say }) => {
    const [most, now] = [quotas[quota], used[quota]];
    if (typeof most !== "number") return [];
    return now === undefined ? say(most) : `${quota.endsWith("_mib") ? mebibytes(now) : now} of ${say(most)}`;
  });
  return words.join(", ") || "none";
}
