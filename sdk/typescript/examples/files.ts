/** Moves files of any size into a machine and out of it, without having them in memory. */

import { createReadStream, createWriteStream } from "node:fs";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Writable } from "node:stream";
import { BandSox } from "bandsox";

const bandsox = new BandSox({ baseUrl: process.env.BANDSOX_URL ?? "http://127.0.0.1:8000" });
const directory = await mkdtemp(join(tmpdir(), "bandsox-"));
const vm = await bandsox.createVm({ image: "python:3-alpine", mem_mib: 256 });
try {
  const local = join(directory, "big");
  await writeFile(local, new Uint8Array(5_000_000));
  await vm.uploadFile("/srv/big", createReadStream(local));
  console.log((await vm.execCommand("wc -c < /srv/big")).stdout.trim());

  const copy = join(directory, "copy");
  await vm.readStream("/srv/big").pipeTo(Writable.toWeb(createWriteStream(copy)));
  console.log((await stat(copy)).size);

  // Many files in one request.
  await vm.uploadFolder({ "main.py": "import lib\nprint(lib.answer)\n", "lib/__init__.py": "answer = 42\n" }, "/srv/app");
  console.log((await vm.execCommand("python3 /srv/app/main.py")).stdout.trim());
} finally {
  await vm.delete();
  await rm(directory, { recursive: true });
}
