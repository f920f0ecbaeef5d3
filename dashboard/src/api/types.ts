/** What the server answers with: the SDK's types, and those that it has no name for. */

import type { AuthKeysResult, PublishedPort, VmInfo } from "bandsox";

export type { AuthKeysResult as Key, DirEntry as FileEntry, ImageInfo as Image, PublishedPort, VmInfo as Vm } from "bandsox";

export type VmStatus = VmInfo["status"];

export type Quotas = AuthKeysResult["quotas"];

export type KeyScope = "read" | "exec" | "admin";

export interface GuestProcess {
  pid: number;
  ppid: number;
  uid: number;
  name: string;
  argv: string[];
  state: string;
  rss: number;
  cpu_ms: number;
}

/** A guest's own view of its load: times in ms since boot, sizes in bytes. */
export interface Load {
  uptime_ms: number;
  load: [number, number, number];
  cpu_count: number;
  cpu_user_ms: number;
  cpu_system_ms: number;
  cpu_idle_ms: number;
  cpu_steal_ms: number;
  memory_total: number;
  memory_available: number;
  disk_total: number;
  disk_free: number;
  process_count: number;
  processes: GuestProcess[];
}

export interface Session {
  id: string;
  pid: number;
  argv: string[];
  tty: boolean;
  started: number;
  running: boolean;
  exit_code: number | null;
}

/** One thing that was looked at on the host. `note`: it works without, but better with. */
export interface Finding {
  subject: string;
  state: "ok" | "note" | "missing";
  text: string;
  remedy: string | null;
}

export interface Snapshot {
  id: string;
  snapshot_name: string;
  source_vm_id: string;
  image: string;
  vcpu: number;
  mem_mib: number;
  disk_size_mib: number;
  metadata: Record<string, unknown>;
  created_at: number;
  /** What its machine was made of: another snapshot, or a VM that it is a clone of. */
  parent: string | null;
  vmm: string;
  accelerator: string;
  /** What is wrong with it. */
  status: string | null;
}

export interface PortState extends PublishedPort {
  listening: boolean;
  open: number;
  accepted: number;
  refused: number;
}
