/** Opens a terminal, which outlives its connection, and types into it. In a page, `onOutput` writes to xterm.js and its input goes to `sendInput`. */

import { BandSox } from "bandsox";

const bandsox = new BandSox({ baseUrl: process.env.BANDSOX_URL ?? "http://127.0.0.1:8000" });
const vm = await bandsox.createVm({ image: "python:3-alpine", mem_mib: 256 });
try {
  const terminal = vm.connectTerminal(100, 30);
  terminal.onOutput((text) => process.stdout.write(text));
  terminal.onError((error) => {
    console.error(`${error.code}: ${error.message}`);
  });
  terminal.sendInput("stty size; exit 7\n");
  const { exitCode } = await new Promise<{ exitCode: number | undefined }>((resolve) => terminal.onClose(resolve));
  console.log(`ended with ${exitCode ?? "an error"}`);
} finally {
  await vm.delete();
}
