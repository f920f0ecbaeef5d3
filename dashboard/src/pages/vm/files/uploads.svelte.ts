/** Files on their way into a VM, two at a time. Their contents go as they are read from the disk. */

import { asFailure } from "../../../api/failure";
import { machine } from "../../../api/sdk";
import { below } from "./paths";

export class Upload {
  readonly name: string;
  readonly path: string;
  readonly content: File;
  readonly stop = new AbortController();
  sent = $state(0);
  state = $state<"waiting" | "sending" | "done" | "failed">("waiting");
  why = $state<string | null>(null);

  constructor(path: string, name: string, content: File) {
    this.path = path;
    this.name = name;
    this.content = content;
  }
}

const AT_ONCE = 2;

export class Uploads {
  list = $state.raw<Upload[]>([]);
  readonly #vm: string;
  readonly #arrived: () => void;
  #working = 0;

  /** `arrived` is called after each file that is there. */
  constructor(vm: string, arrived: () => void) {
    this.#vm = vm;
    this.#arrived = arrived;
  }

  add(directory: string, chosen: Iterable<File>): void {
    this.#enqueue(Array.from(chosen, (file) => new Upload(below(directory, file.name), file.name, file)));
  }

  /** Take what was dropped; of directories everything in them. */
  async addDropped(directory: string, dropped: DataTransfer): Promise<void> {
    const items = Array.from(dropped.items, (item) => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }));
    const entries = items.map(({ entry }) => entry).filter((entry) => entry !== null);
    this.add(
      directory,
      items.filter(({ entry }) => entry === null).flatMap(({ file }) => file ?? []),
    ); // such as a picture out of a page
    for (const entry of entries) {
      for await (const { name, file } of filesOf(entry)) this.#enqueue([new Upload(below(directory, name), name, file)]);
    }
  }

  /** Forget those that have ended, and give up the others. */
  clear(): void {
    for (const upload of this.list) upload.stop.abort();
    this.list = [];
  }

  #enqueue(uploads: Upload[]): void {
    this.list = [...this.list, ...uploads];
    while (this.#working < AT_ONCE && this.list.some((each) => each.state === "waiting")) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working += 1;
    for (let next = this.#take(); next; next = this.#take()) await this.#send(next);
    this.#working -= 1;
  }

  #take(): Upload | undefined {
    const next = this.list.find((each) => each.state === "waiting");
    if (next) next.state = "sending";
    return next;
  }

  async #send(upload: Upload): Promise<void> {
    try {
      const options = { onProgress: (sent: number) => (upload.sent = sent) };
      await machine(this.#vm).uploadFile(upload.path, upload.content, options, { signal: upload.stop.signal });
      upload.state = "done";
      this.#arrived();
    } catch (error) {
      const failure = asFailure(error);
      upload.why = failure.cause ? `${failure.message}: ${failure.cause}` : failure.message;
      upload.state = "failed";
    }
  }
}

/** The files below an entry that was dropped, by their paths from it on. */
async function* filesOf(entry: FileSystemEntry, above = ""): AsyncGenerator<{ name: string; file: File }> {
  const name = above + entry.name;
  if (entry.isFile) {
    yield { name, file: await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)) };
    return;
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const each of some) yield* filesOf(each, `${name}/`);
  }
}
