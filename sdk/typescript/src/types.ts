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

/** A VM to be made. */
export interface CreateVmOptions extends Sent<"NewVM"> {}

/** Which VMs to list. */
export interface ListVmsOptions {
  /** Only so many. */
  limit?: number | null | undefined;
  /** Only those whose metadata has all these values. */
  metadata_equals?: Record<string, unknown> | null | undefined;
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
  uplink?: "pasta" | "veth";
  dns?: string[];
  mtu?: number;
  /** Whether there is a way to the world over IPv6. */
  ipv6?: boolean;
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
  /** Seconds after which it is killed with all it has started; null: never. 30 by default. */
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

/** What a key may do. */
export interface CreateApiKeyOptions extends Omit<Sent<"NewKeyShape">, "name"> {}
