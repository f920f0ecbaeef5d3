/** Files of a VM. */

import { type BandSoxError } from "bandsox";
import { described } from "./failure";
import { address, ask, fetchBytes, part } from "./http";
import type { FileEntry } from "./types";

const at = (vm: string, operation: string) => `/api/vms/${part(vm)}${operation}`;

export const files = {
  list: async (vm: string, path: string, signal?: AbortSignal) =>
    (await ask<{ files: FileEntry[] }>("GET", at(vm, "/files"), { query: { path }, signal })).files,
  makeDirectory: (vm: string, path: string) => ask("POST", at(vm, "/directories"), { body: { path } }),
  remove: (vm: string, path: string, recursive: boolean) => ask("DELETE", at(vm, "/files"), { query: { path, recursive } }),
  rename: (vm: string, path: string, to: string) => ask("POST", at(vm, "/files/rename"), { body: { path, to } }),
  read: (vm: string, path: string, most: number) => fetchBytes(at(vm, "/download"), { path }, most),
  write: (vm: string, path: string, content: Blob, options: UploadOptions = {}) =>
    upload(address(at(vm, "/file"), { path }), content, options),
  /** Make a file that is not there; one that is stays as it is. */
  append: (vm: string, path: string, content: Blob) => upload(address(at(vm, "/file"), { path, append: true }), content),
  /** Where the browser gets a file, or a directory as a tar archive whose top is called `base`. */
  downloadAddress: (vm: string, path: string) => address(at(vm, "/download"), { path }),
  treeAddress: (vm: string, path: string, base: string) => address(at(vm, "/tree"), { path, base }),
};

export interface UploadOptions {
  progress?: (sent: number) => void;
  signal?: AbortSignal;
}

/** Send a file as it is read. `fetch` does not tell how far it is; this does. */
function upload(url: string, content: Blob, { progress, signal }: UploadOptions = {}): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const broken = () => reject(new TypeError("the connection broke off"));
    request.open("PUT", url);
    request.upload.onprogress = (event) => progress?.(event.loaded);
    request.onload = () => (request.status < 300 ? resolve() : reject(told(request)));
    request.onerror = broken;
    request.onabort = () => reject(new DOMException("it was cancelled", "AbortError"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(content);
  });
}

function told(request: XMLHttpRequest): BandSoxError {
  try {
    return described(request.status, JSON.parse(request.responseText));
  } catch {
    return described(request.status, null);
  }
}
