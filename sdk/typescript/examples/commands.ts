/** Makes a machine, runs commands in it in every way there is, and deletes it. */

import { BandSox, Timeout } from "bandsox";

const bandsox = new BandSox({ baseUrl: process.env.BANDSOX_URL ?? "http://127.0.0.1:8000" });
const vm = await bandsox.createVm({ image: "python:3-alpine", mem_mib: 256 });
try {
  // To the end, with everything it has printed.
  console.log((await vm.execCommand("echo $((6 * 7))")).stdout.trim());

  // As it prints. A list is not read by a shell.
  for await (const { stream, data } of vm.stream(["python3", "-c", "print('one'); print('two')"])) process[stream].write(data);

  // With input while it runs.
  const sort = await vm.execute("sort", { stdin: true });
  await sort.write("pear\napple\n");
  sort.closeStdin();
  for await (const { data } of sort) process.stdout.write(data);
  console.log(`sort ended with ${(await sort.wait()).exit_code}`);

  // Not for ever.
  try {
    await vm.execCommand("sleep 1000", 0.5);
  } catch (error) {
    if (!(error instanceof Timeout)) throw error;
    console.log(error.code);
  }
} finally {
  await vm.delete();
}
