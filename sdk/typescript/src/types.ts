/** What is passed around. The names of properties are those of the server, and most types are its own (see `schema.ts`). */

import { type Body, type Sent, type Shape } from "./schema.js";

/** Where the server is, and how to speak to it. */
export interface BandSoxConfig {
  /** The server's address, such as `https://host:8000`; in a browser it may be relative to the page. */
  baseUrl: string;
  /**
   * Sent with every request, such as `Authorization`. WebSockets, to which platforms add no headers, carry a bearer token in their list of
   * subprotocols, and none of the others.
   */
  headers?: Record<string, string> | undefined;
  /** Milliseconds that a server may take for an answer which needs no long work; 60,000 by default. */
  timeout?: number | undefined;
  /** How often a request that has no effects is sent again when the connection is lost; twice by default. */
  retries?: number | undefined;
  /** In the place of the platform's `WebSocket`. Node before 22 has none: there the package `ws` is used, where it is installed. */
  WebSocket?: WebSocketConstructor | undefined;
  /** In the place of the platform's `fetch`, such as one with an agent that knows a private certificate authority. */
  fetch?: typeof fetch | undefined;
}

/** What makes WebSockets: the platform's, or one like it. */
export type WebSocketConstructor = new (url: string, protocols?: string[]) => WebSocketLike;

/** What this package uses of a WebSocket. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  readonly readyState: number;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: never) => void): void;
}

/** How one call is made. It is the last parameter of every method. */
export interface CallOptions {
  /** Ends the call, which is then rejected with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Milliseconds until the answer has to be there, in the place of the client's; for work that may take long there is none by default. */
  timeout?: number | undefined;
}

/** How a call is made that makes something, and may take long. */
export interface LongCallOptions extends CallOptions {
  /**
   * The server does it once under this key, however often it is asked to, for a day; a new one by default. With a key of its own, a program that
   * was started anew asks again and gets what was made. Work with a key goes on when its caller goes away; without one, null, the server gives it
   * up when the signal is aborted.
   */
  idempotencyKey?: string | null | undefined;
  /** Told of each step. */
  onProgress?: ((step: Progress) => void) | undefined;
}

/** How a call is made that takes long, and is not sent twice. */
export interface WatchedCallOptions extends CallOptions {
  /** Told of each step. */
  onProgress?: ((step: Progress) => void) | undefined;
}

/** A step of long work. */
export interface Progress {
  /** Such as `pull` or `boot`; steps of one task replace each other. */
  task: string;
  label: string;
  done: number;
  total: number | null;
  unit: "bytes" | "steps";
  finished: boolean;
}

/** A VM to be made. */
export interface CreateVmOptions extends Sent<"NewVM"> {}

/** A VM to be made of the image of a Dockerfile. */
export interface CreateVmFromDockerfileOptions extends Omit<CreateVmOptions, "image"> {
  /** A name for the image. */
  tag?: string | null | undefined;
  /** Values of its `ARG`s. */
  build_args?: Record<string, string> | undefined;
  /** What COPY and ADD take files from: files by their paths, or a tar archive. */
  context?: UploadFolderFiles | Blob | undefined;
}

/** A VM to be made of a snapshot. */
export interface RestoreVmOptions extends Sent<"Restore"> {}

/** A snapshot to be taken. */
export interface SnapshotOptions extends Sent<"NewSnapshot"> {}

/** How long a VM may run from now on. */
export interface DeadlineOptions extends Sent<"NewDeadlines"> {}

/** How long a VM may run. */
export interface Deadlines extends Shape<"DeadlinesInForce"> {}

/** A place in a VM's timeline that it can go back to. */
export interface Checkpoint extends Shape<"CheckpointInfo"> {}

/** A file that is not the same in two states of a VM. `raw_path` are the bytes of a path that is not UTF-8, in base64. */
export interface FileDifference extends Shape<"Difference"> {}

/** Clones to be made. */
export interface ForkOptions extends Sent<"Fork"> {}

/** A snapshot. */
export interface SnapshotInfo extends Omit<Shape<"SnapshotInfo">, "network_config" | "vsock_config"> {
  network_config: NetworkConfig | null;
  vsock_config: VsockConfig | null;
}

/** Which snapshots a server keeps; the others go by themselves. */
export interface Retention extends Shape<"RetentionShape"> {}

/** Which snapshots a server is to keep: those up to an age in seconds, the newest so many of each VM, and those with certain names. */
export interface RetentionOptions extends Sent<"RetentionShape"> {}

/** Which snapshots to remove: those that `kept` does not keep, by default what is kept at all times. */
export interface PruneSnapshotsOptions extends Sent<"PruneSnapshots"> {}

/** A snapshot that was removed. */
export interface PrunedSnapshot extends Shape<"PrunedSnapshot"> {}

/** Which snapshots to list. */
export interface ListSnapshotsOptions {
  /** Only so many. */
  limit?: number | undefined;
  /** Only those behind the one with this id: the next page. */
  after?: string | undefined;
  /** Only those whose metadata has all these values. */
  metadata_equals?: Record<string, unknown> | undefined;
  /** Only those of the VM with this id. */
  source_vm_id?: string | undefined;
  /** Those too that belong to a VM or a template: checkpoints, memories, and what templates are made of. */
  belonging?: boolean | undefined;
}

/** How a snapshot is packed. */
export interface ExportSnapshotOptions {
  /** A snapshot that the receiver has: only what differs from it is sent. */
  base?: string | undefined;
  /** With the root file system of the VM's image, as by default. */
  image?: boolean | undefined;
}

/** A snapshot on its way to another server. */
export interface ExportedSnapshot {
  /** What names all of it. */
  digest: string;
  /** How many bytes there are. */
  size: number;
  stream: ReadableStream<Uint8Array>;
}

/** How a snapshot is taken in. */
export interface ImportSnapshotOptions {
  /** Another name than it had. */
  name?: string | undefined;
  /** Told how many bytes were sent so far. */
  onProgress?: ((bytes: number) => void) | undefined;
}

/** A template to be made, or found. */
export interface CreateTemplateOptions extends Sent<"NewTemplate"> {}

/** A VM that was set up once, to start others from: their image is `template:ID`. */
export interface TemplateInfo extends Shape<"TemplateInfo"> {}

/** A warm pool: how many VMs of a template shall stand ready, and do. */
export interface PoolInfo extends Shape<"PoolInfo"> {}

/** What a VM of a pool is to be called, and to have. */
export interface TakeVmOptions extends Sent<"TakeFromPool"> {}

/** Something that happened to a VM, a snapshot or an image, whichever program did it. */
export interface ServerEvent {
  /**
   * `vm.created`, `vm.status`, `vm.renamed`, `vm.updated`, `vm.deleted`, the same of `snapshot.` and `image.`; `hello` comes first: whatever happens
   * from then on is told; `lost`: ask for the lists anew.
   */
  type: string;
  /** Where one can go on. */
  id: number;
  /** When, in seconds since the epoch. */
  at?: number;
  /** The id of what it happened to. */
  subject?: string;
  name?: string | null;
  status?: string | null;
}

/** Something that happened to a file. */
export interface FileChange {
  type: "created" | "modified" | "removed" | "moved" | "attributes" | "overflow";
  path: string;
  /** Its new path, where it was moved. */
  to: string | null;
}

/** An HTTP request to a port of the guest. */
export interface HttpProxyOptions extends Sent<"HttpRequest"> {}

/** What it was answered. */
export interface HttpProxyResult extends Shape<"HttpResponse"> {}

/** How large a VM's balloon is to be, and is, and what the guest says of the rest, in MiB. */
export interface BalloonInfo extends Shape<"BalloonInfo"> {}

/** Where a VM may go: what `allow` has and `deny` has not. Without `allow` it is the Internet. */
export interface NetworkPolicyOptions extends Sent<"NewPolicy"> {}

/** A policy that has a name. */
export type NetworkPreset = "internet" | "none" | "registry-only" | "learn";

/** Where a VM may go. */
export interface NetworkPolicy extends Shape<"PolicyInfo"> {}

/** A value that a VM's programs use without having it; see `secrets` of {@link CreateVmOptions}. */
export interface Secret extends Sent<"NewSecret"> {}

/** What is known of a VM's secret, which is never its value. */
export interface SecretInfo extends Shape<"SecretInfo"> {}

/** What a VM connected to, or tried to. */
export interface NetworkConnection extends Shape<"NetworkConnection"> {}

/** How much a VM has used its network: bytes, headers included, and connections. */
export interface NetworkStats extends Shape<"NetworkUse"> {}

/** Which part of a VM's network log. */
export interface NetworkLogOptions {
  /** Only so many, the newest. */
  limit?: number | undefined;
  /** Only those. */
  verdict?: "allowed" | "refused" | undefined;
}

/** A line of a VM's network log: a connection was opened, closed, or one, or the question for a name, was refused. */
export interface NetworkEvent {
  type: "connection";
  /** The connection's. */
  id: number;
  /** Seconds since the epoch. */
  time: number;
  event: "opened" | "closed" | "refused";
  /** `dns` for the question for a name. */
  protocol: string;
  name: string;
  address: string;
  port: number;
  /** Bytes, known when it is closed; so the next. */
  sent: number;
  received: number;
  /** Why it was refused. */
  reason: string;
}

/** A port that a VM publishes, and how it is used. */
export interface PortInfo extends Shape<"PortInfo"> {}

/** The server's host: what it has, and what is free. */
export interface HostInfo extends Shape<"Host"> {}

/** What has become of a request with a key. */
export interface RequestOutcome extends Shape<"Outcome"> {}

/** Which VMs to list. */
export interface ListVmsOptions {
  /** Only so many. */
  limit?: number | null | undefined;
  /** Only those whose metadata has all these values. */
  metadata_equals?: Record<string, unknown> | null | undefined;
  /** Only those with this name. */
  name?: string | undefined;
  /** Only those of this image. */
  image?: string | undefined;
  /** Only those with this status. */
  status?: VmInfo["status"] | undefined;
  /** Only those behind the one with this id: the next page. */
  after?: string | undefined;
}

/** The addresses of a VM. */
export interface NetworkConfig {
  host_ip: string;
  guest_ip: string;
  host_mac: string;
  guest_mac: string;
  tap_name: string;
  host_ipv6?: string | null;
  guest_ipv6?: string | null;
  uplink?: "pasta" | "veth" | "cni";
  dns?: string[];
  mtu?: number;
  /** Whether there is a way to the world over IPv6. */
  ipv6?: boolean;
  /** Those of a CNI network, at which others reach the guest. */
  addresses?: string[];
  /** The domains in which names are looked for, and options, of a CNI network's `resolv.conf`. */
  search?: string[];
  resolver_options?: string[];
}

/** The virtual socket of a VM. */
export interface VsockConfig {
  enabled: boolean;
  cid: number;
  port: number;
  uds_path: string;
  baked_uds_path?: string | null;
  host_uds_path?: string;
}

/** All that is known of a VM. */
export interface VmInfo extends Omit<Shape<"VM">, "network_config" | "vsock_config"> {
  /** null where it has no network. */
  network_config: NetworkConfig | null;
  vsock_config: VsockConfig | null;
}

/** A port of the server's host that leads to one of a VM. */
export interface PublishedPort extends Shape<"Port"> {}

/** How a command ended. What is not UTF-8 in its output appears as U+FFFD. */
export interface ExecResult extends Shape<"Ran"> {}

/** How a command is run. */
export interface ExecOptions {
  /** Seconds after which it is killed with all it has started; null: never. 30 by default where its end is waited for, else never. */
  timeout?: number | null | undefined;
  /** Variables of its environment, over those of the image. */
  env?: Record<string, string> | undefined;
  /** The directory it runs in. */
  cwd?: string | undefined;
  /** The user it runs as: a name or a number, with `:group` where wanted. */
  user?: string | undefined;
  /** What it reads. */
  stdin?: string | undefined;
}

/** Python code to be run. */
export interface ExecPythonOptions extends Sent<"Python"> {}

/** How the code ended. `output` is both streams in the order in which they came; a timeout is the exit code 124. */
export interface ExecPythonResult extends Shape<"PythonRan"> {}

/** A file: its size in bytes, its mode in octal, its time of modification in seconds since the epoch. */
export interface FileInfo extends Shape<"Info"> {}

/** One entry of a directory. */
export interface DirEntry extends Shape<"ListedFile"> {}

/** The entries of a directory, by name. */
export interface ListDirResult extends Shape<"Listing"> {}

/** Content for a file, at most 256 MiB; `uploadFile` takes any size. */
export interface WriteFileOptions extends Body<"post", "/api/vms/{vm}/write-file"> {}

/** A file that was written. */
export interface WriteResult extends Shape<"Written"> {}

/** What a file is made of. In browsers a stream is refused, and a `Blob` or `File` is read while it is sent. */
export type UploadContent =
  string | Uint8Array<ArrayBuffer> | ArrayBuffer | Blob | ReadableStream<Uint8Array<ArrayBuffer>> | AsyncIterable<Uint8Array<ArrayBuffer>>;

/** How a file is written. */
export interface UploadOptions {
  /** Its permission bits, such as 0o755. */
  mode?: number | undefined;
  /** Whether to append to it. */
  append?: boolean | undefined;
  /** Append only if the file has this size in bytes, to go on with an upload that broke off. */
  at?: number | undefined;
  /** Told how many bytes were sent so far. */
  onProgress?: ((bytes: number) => void) | undefined;
}

/** Which part of a file is read. */
export interface ReadOptions {
  /** The first byte. */
  offset?: number | undefined;
  /** How many bytes at most. */
  length?: number | undefined;
}

/** A tree that was unpacked. */
export interface TreeResult extends Shape<"Tree"> {}

/** How a program is run that is watched while it runs. */
export interface ExecuteOptions extends Omit<ExecOptions, "stdin"> {
  /** Whether it reads what is written to it; without, it reads nothing. */
  stdin?: boolean | undefined;
  /** The size of the terminal it runs in; without, it runs in none. */
  tty?: { cols: number; rows: number } | undefined;
}

/** How a session is started. */
export interface SessionOptions extends ExecuteOptions {
  /** Its id: up to 64 letters, digits, `_`, `.` and `-`; made up when absent. */
  id?: string | undefined;
}

/** A session that was started. */
export interface StartedSession extends Shape<"StartedSession"> {}

/** A session, perhaps one that ended lately. */
export interface SessionInfo extends Shape<"Session"> {}

/** Files by their paths in a folder. */
export type UploadFolderFiles = Record<string, string | Uint8Array<ArrayBuffer> | Blob>;

/** An image that is on the server. */
export interface ImageInfo extends Shape<"ImageInfo"> {}

/** Whether the caller is known, and whether callers need to be. */
export interface AuthCheckResult extends Shape<"Authenticated"> {}

/** A session for the password. */
export interface LoginResult extends Shape<"LoggedIn"> {}

/** A key, without what it is. */
export interface AuthKeysResult extends Shape<"KeyInfo"> {
  /** The same as `id`. */
  key_id: string;
}

/** A key that was made. This is the only place where `key` ever appears. */
export interface CreateApiKeyResult extends Shape<"CreatedKey"> {}

/** A session of somebody who is logged in. */
export interface BrowserSession extends Shape<"BrowserSession"> {}

/** A page of the audit log. `next` is the `after` of the one behind it. */
export interface AuditPage extends Shape<"AuditPage"> {}

/** Which entries of the audit log are wanted. */
export interface AuditOptions {
  /** Only so many; 100 by default. */
  limit?: number | undefined;
  /** Behind the page that named this as `next`. */
  after?: string | undefined;
  /** Only what the key or the session with this id did. */
  caller?: string | undefined;
  /** Only what came from this address. */
  client?: string | undefined;
  /** Only this method; of WebSockets it is `WEBSOCKET`. */
  method?: string | undefined;
  /** Only paths that begin so. */
  path?: string | undefined;
  /** Only what had this status. */
  status?: number | undefined;
  /** Only what failed or was refused; false: only what was done. */
  refused?: boolean | undefined;
}

/** What is to be changed of a key. `quotas` are all of them. */
export interface EditApiKeyOptions extends Sent<"EditedKey"> {}

/** An address that is told of events. */
export interface WebhookInfo extends Shape<"WebhookInfo"> {}

/** Which events an address is told of: `vm.*` are all that begin so, `*`, the default, all. */
export interface CreateWebhookOptions extends Omit<Sent<"NewWebhook">, "url"> {}

/** A webhook with its secret, with which its messages are signed as Standard Webhooks says. */
export interface CreateWebhookResult extends Shape<"CreatedWebhook"> {}

/** What is to be changed of a webhook. */
export interface EditWebhookOptions extends Sent<"EditedWebhook"> {}

/** An attempt to deliver a message, and what became of it. */
export interface WebhookDelivery extends Shape<"DeliveryInfo"> {}

/** What a key may do. */
export interface CreateApiKeyOptions extends Omit<Sent<"NewKeyShape">, "name"> {}

/** Everything that is known of a file. */
export interface FileStat {
  type: "file" | "directory" | "symlink" | "fifo" | "socket" | "char" | "block" | "unknown";
  /** In bytes. */
  size: number;
  /** The permission bits. */
  mode: number;
  uid: number;
  gid: number;
  /** When it was modified, in seconds since the epoch. */
  mtime: number;
  nlink: number;
  ino: number;
  /** Where a symbolic link leads. */
  target: string | null;
}

/** One process of a guest. */
export interface ProcessInfo extends Shape<"ProcessInfo"> {}

/**
 * A guest's own view of its load: times in milliseconds and traffic in bytes since it has booted, sizes in bytes. What its disks and its network
 * have carried is null in a guest that goes on from a snapshot of an earlier version.
 */
export interface Metrics extends Shape<"Metrics"> {}

/** What the agent says of itself and its kernel. */
export interface GuestInfo {
  agent: string;
  kernel: string;
  arch: string;
  uptime_ms: number;
  transport: string;
  capabilities: string[];
  /** The guest's clock, in seconds since the epoch. */
  time: number;
}

/** One thing that was looked at on the server's host. `note`: it works without, but better with. */
export interface Finding {
  subject: string;
  state: "ok" | "note" | "missing";
  text: string;
  /** The command that mends it. */
  remedy: string | null;
}
