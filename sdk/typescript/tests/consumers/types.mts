import { BandSox, BandSoxError, type ErrorCode, type ExecResult, type MicroVM, type VmInfo } from "bandsox";

const bandsox = new BandSox({ baseUrl: "http://127.0.0.1:8000", timeout: undefined });

export async function used(signal: AbortSignal): Promise<void> {
  const vm: MicroVM = await bandsox.createVm({ image: "python:3-alpine", name: undefined, env_vars: { A: "b" }, ttl: 60 }, { signal });
  const result: ExecResult = await vm.execCommand(["true"], { timeout: null });
  const code: number = result.exit_code;
  const ip: string | null = vm.getGuestIp();
  const [first] = await bandsox.listVms({ limit: 1, status: "running" });
  const status: VmInfo["status"] | undefined = first?.status;
  for await (const { stream, data } of vm.stream("ls")) new Map<"stdout" | "stderr", Uint8Array>().set(stream, data);
  const known: ErrorCode = "vm_not_found";
  if (new BandSoxError(known, `${code} ${ip} ${status}`).code === "vm_not_found") await vm.delete({ signal });

  // @ts-expect-error: no such option
  await bandsox.createVm({ memory: 128 });
  // @ts-expect-error: of another type
  await bandsox.createVm({ vcpu: "2" });
  // @ts-expect-error: no such status
  await bandsox.listVms({ status: "asleep" });
  // @ts-expect-error: no such property
  console.log(first?.colour);
}
