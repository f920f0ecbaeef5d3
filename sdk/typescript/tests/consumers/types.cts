import bandsox = require("bandsox");

export async function used(): Promise<number> {
  const vm: bandsox.MicroVM = await new bandsox.BandSox({ baseUrl: "http://127.0.0.1:8000" }).createVm();
  // @ts-expect-error: no such method
  vm.explode();
  return (await vm.execCommand("true")).exit_code;
}
