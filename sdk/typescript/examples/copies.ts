/** Sets a machine up once, has others go on from there at once, and takes back what went wrong. */

import { BandSox } from "bandsox";

const bandsox = new BandSox({ baseUrl: process.env.BANDSOX_URL ?? "http://127.0.0.1:8000" });
const vm = await bandsox.createVm({ image: "python:3-alpine", mem_mib: 256 });
try {
  await vm.writeFile({ path: "/srv/data", content: "prepared" });

  // Clones share its memory and its disk until they write to them; it goes on.
  const clones = await vm.fork({ count: 2 });
  try {
    const results = await Promise.all(clones.map(async (clone, index) => clone.execCommand(`echo "$(cat /srv/data) ${index}"`)));
    for (const { stdout } of results) console.log(stdout.trim());
  } finally {
    await Promise.all(clones.map(async (clone) => clone.delete()));
  }

  // A checkpoint is a place to go back to.
  await vm.checkpoint("before");
  await vm.execCommand("rm -r /srv");
  await vm.rewind("before");
  console.log(await vm.readFile("/srv/data"));
} finally {
  await vm.delete();
}
