/** Files on their way to the reader. */

import { machine } from "./sdk";

/** The beginning of a file, at most so many bytes of it, and whether it is the whole file. */
export async function beginningOf(vm: string, path: string, most: number): Promise<{ bytes: Uint8Array<ArrayBuffer>; whole: boolean }> {
  const pieces: BlobPart[] = [];
  let size = 0;
  const reader = machine(vm).readStream(path).getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value as Uint8Array<ArrayBuffer>);
    size += piece.value.length;
    if (size > most) {
      await reader.cancel();
      break;
    }
  }
  return { bytes: new Uint8Array(await new Blob(pieces).arrayBuffer()).subarray(0, most), whole: size <= most };
}

/** Where the browser gets a file, or a directory as a tar archive whose top is called `base`. */
export const fileAddress = (vm: string, path: string): string => address(vm, "download", { path });
export const treeAddress = (vm: string, path: string, base: string): string => address(vm, "tree", { path, base });

function address(vm: string, operation: string, query: Record<string, string>): string {
  return `/api/vms/${encodeURIComponent(vm)}/${operation}?${new URLSearchParams(query)}`;
}

/** Where the browser gets a snapshot as a file; with `base` only what differs from that one. */
export function exportAddress(snapshot: string, { base, image }: { base: string; image: boolean }): string {
  const query = new URLSearchParams({ ...(base ? { base } : {}), image: String(image) });
  return `/api/snapshots/${encodeURIComponent(snapshot)}/export?${query}`;
}
