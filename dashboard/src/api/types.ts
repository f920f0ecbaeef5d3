/** What the server answers with, by the names that it has here. */

import type { AuthKeysResult, VmInfo } from "bandsox";

export type {
  AuthKeysResult as Key,
  BrowserSession,
  Checkpoint,
  DirEntry as FileEntry,
  Finding,
  ImageInfo as Image,
  Metrics as Load,
  NetworkConnection,
  NetworkPolicy,
  NetworkStats as NetworkUse,
  PoolInfo as Pool,
  PortInfo as PortState,
  ProcessInfo as GuestProcess,
  Progress as Step,
  SecretInfo as Secret,
  SessionInfo as Session,
  SnapshotInfo as Snapshot,
  TemplateInfo as Template,
  VmInfo as Vm,
  WebhookDelivery,
  WebhookInfo as Webhook,
} from "bandsox";

export type VmStatus = VmInfo["status"];

export type Quotas = AuthKeysResult["quotas"];

export type KeyScope = "read" | "exec" | "admin";
