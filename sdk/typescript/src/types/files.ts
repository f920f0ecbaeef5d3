/** Files of a VM. */

import { type Body, type Shape } from "../schema.js";

/** A file: its size in bytes, its mode in octal, its time of modification in seconds since the epoch. */
export interface FileInfo extends Shape<"Info"> {}

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

/** Files by their paths in a folder. */
export type UploadFolderFiles = Record<string, string | Uint8Array<ArrayBuffer> | Blob>;

/** Which part of a file is read. */
export interface ReadOptions {
  /** The first byte. */
  offset?: number | undefined;
  /** How many bytes at most. */
  length?: number | undefined;
}

/** A tree that was unpacked. */
export interface TreeResult extends Shape<"Tree"> {}

/** Something that happened to a file. */
export interface FileChange {
  type: "created" | "modified" | "removed" | "moved" | "attributes" | "overflow";
  path: string;
  /** Its new path, where it was moved. */
  to: string | null;
}
