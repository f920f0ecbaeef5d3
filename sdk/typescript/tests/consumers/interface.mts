/** The names that every version of this package has: programs that were written for BandSox 3.5 go on compiling. */

import {
  BandSox,
  BandSoxError,
  MicroVM,
  TerminalSession,
  type AuthCheckResult,
  type AuthKeysResult,
  type BandSoxConfig,
  type CreateApiKeyResult,
  type CreateVmFromDockerfileOptions,
  type CreateVmOptions,
  type DirEntry,
  type ExecPythonOptions,
  type ExecPythonResult,
  type ExecResult,
  type FileInfo,
  type HttpProxyOptions,
  type HttpProxyResult,
  type ListDirResult,
  type ListVmsOptions,
  type NetworkConfig,
  type RestoreVmOptions,
  type SnapshotInfo,
  type SnapshotOptions,
  type UploadFolderFiles,
  type VmInfo,
  type VsockConfig,
  type WriteFileOptions,
} from "bandsox";

const config: BandSoxConfig = { baseUrl: "http://127.0.0.1:8000", headers: { Authorization: "Bearer bsx_" }, timeout: 60_000 };

export async function aServer(dockerfile: string): Promise<void> {
  const bandsox = new BandSox(config);
  const options: CreateVmOptions = { image: "alpine", vcpu: 1, mem_mib: 128, enable_networking: false, env_vars: { A: "b" } };
  const built: CreateVmFromDockerfileOptions = { tag: "mine", name: "built" };
  const restored: RestoreVmOptions = { name: "again", enable_networking: false };
  const wanted: ListVmsOptions = { limit: 10, metadata_equals: { team: "web" } };
  const saved: SnapshotOptions = { name: "ready", metadata: {} };
  const made: MicroVM = await bandsox.createVm(options);
  const { vmId }: MicroVM = await bandsox.createVmFromDockerfile(dockerfile, built);
  const snapshot: string = await bandsox.snapshotVm(vmId, saved);
  const handles: (MicroVM | null)[] = [made, await bandsox.restoreVm(snapshot, restored), await bandsox.getVm(vmId)];
  const lists: VmInfo[][] = [await bandsox.listVms(wanted), await bandsox.listProjects(wanted)];
  const known: VmInfo | null = await bandsox.getVmInfo(vmId);
  await bandsox.stopVm(vmId);
  await bandsox.pauseVm(vmId);
  await bandsox.resumeVm(vmId);
  await bandsox.renameVm(vmId, "new");
  await bandsox.updateVmMetadata(vmId, { team: "web" });
  await bandsox.deleteVm(vmId);
  const snapshots: SnapshotInfo[] = await bandsox.listSnapshots();
  await bandsox.updateSnapshotMetadata(snapshot, {});
  await bandsox.renameSnapshot(snapshot, "new");
  await bandsox.deleteSnapshot(snapshot);
  const check: AuthCheckResult = await bandsox.authCheck();
  await bandsox.login("password");
  const keys: AuthKeysResult[] = await bandsox.listApiKeys();
  const key: CreateApiKeyResult = await bandsox.createApiKey("ci");
  await bandsox.revokeApiKey(key.key_id);
  await bandsox.logout();
  const terminal: TerminalSession = bandsox.connectTerminal(vmId, 80, 24);
  aTerminal(terminal);
  console.log(handles, lists, known, snapshots, check, keys);
}

export async function aMachine(vm: MicroVM): Promise<void> {
  const info: VmInfo | null = vm.info;
  const network: NetworkConfig | null | undefined = info?.network_config;
  const vsock: VsockConfig | null | undefined = info?.vsock_config;
  await vm.stop();
  await vm.pause();
  await vm.resume();
  const snapshot: string = await vm.snapshot({ name: "ready" });
  const now: VmInfo = await vm.getInfo();
  const ready: boolean = await vm.waitForAgent(30);
  await vm.rename("new");
  await vm.updateMetadata({});
  const ran: ExecResult = await vm.execCommand("true", 30);
  const code: ExecPythonOptions = { code: "print(1)", packages: ["rich"], cwd: "/tmp", timeout: 60, cleanup_venv: true };
  const python: ExecPythonResult = await vm.execPython(code);
  const listed: ListDirResult = await vm.listDir("/");
  const entries: DirEntry[] = listed.files;
  const text: string = await vm.readFile("/etc/hostname");
  const content: WriteFileOptions = { path: "/tmp/a", content: "aGk=", encoding: "base64" };
  await vm.writeFile(content);
  await vm.appendFile("/tmp/a", "aGk=", "base64");
  await vm.appendText("/tmp/a", "more");
  const file: FileInfo = await vm.getFileInfo("/tmp/a");
  const bytes: Uint8Array = await vm.downloadFile("/tmp/a");
  await vm.uploadFile("/tmp/b", bytes.slice());
  const files: UploadFolderFiles = { "a.txt": "a", "b.bin": bytes.slice() };
  await vm.uploadFolder(files, "/srv");
  const terminal: TerminalSession = vm.connectTerminal(80, 24);
  const ip: string | null = vm.getGuestIp();
  const request: HttpProxyOptions = { port: 80, path: "/", method: "GET", timeout: 30 };
  const { status_code, headers, body }: HttpProxyResult = await vm.sendHttpRequest(request);
  await vm.delete();
  aTerminal(terminal);
  console.log(network, vsock, snapshot, now, ready, ran, python, entries, text, file, ip, status_code, headers, body);
}

function aTerminal(terminal: TerminalSession): void {
  terminal.onOutput((text: string) => console.log(text));
  terminal.onClose(() => console.log(terminal.closed));
  terminal.onError((error: Error) => console.log(error instanceof BandSoxError && error.statusCode));
  terminal.sendInput("ls\n");
  terminal.resize(100, 30);
  terminal.close();
}
