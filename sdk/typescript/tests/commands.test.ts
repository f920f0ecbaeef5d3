import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { BandSox, type ExecEnd, MicroVM, type Output } from "../src/index.js";
import { Proxy } from "./proxy.js";

/** What the connection carries besides the output: the headers of frames, and what is said at the beginning. */
const OVERHEAD = 64 << 10;

const bandsox = new BandSox({ baseUrl: inject("server").url });
let vm: MicroVM;

beforeAll(async () => {
  vm = await bandsox.createVm({ mem_mib: 256 });
});

afterAll(async () => {
  await vm.delete();
});

async function text(outputs: AsyncIterable<Output>, stream?: Output["stream"]): Promise<string> {
  let found = "";
  const decoder = new TextDecoder();
  for await (const output of outputs)
    if (stream === undefined || output.stream === stream) found += decoder.decode(output.data, { stream: true });
  return found;
}

describe("execCommand", () => {
  it("gives the exit code and both streams", async () => {
    expect(await vm.execCommand("echo out; echo err >&2; exit 3")).toMatchObject({ exit_code: 3, stdout: "out\n", stderr: "err\n" });
  });

  it("takes a list as it is, and input, environment, directory and user", async () => {
    expect((await vm.execCommand(["printf", "%s", "$HOME; ls"])).stdout).toBe("$HOME; ls");
    const options = { stdin: "ä\n", env: { A: "b c" }, cwd: "/usr", user: "nobody" };
    expect((await vm.execCommand("read x; echo $x $A $PWD $(id -un)", options)).stdout).toBe("ä b c /usr nobody\n");
  });

  it("says that a command ran too long", async () => {
    await expect(vm.execCommand("sleep 1000", 0.2)).rejects.toMatchObject({ name: "Timeout", code: "command_timeout", statusCode: 504 });
  });

  it("kills the command when its caller aborts, with the caller's reason", async () => {
    // Whoever has opened a pipe reads its end when the last of those is gone who may write to it.
    await vm.execCommand("mkfifo /run/alive");
    const watching = await vm.execute("exec 3< /run/alive && echo opened && cat <&3");
    const controller = new AbortController();
    const reason = new Error("no longer wanted");
    const running = vm.execCommand("exec 3> /run/alive; sleep 1000", { timeout: null }, { signal: controller.signal });
    const ended = expect(running).rejects.toBe(reason);
    expect(await watching.next()).toMatchObject({ done: false });
    controller.abort(reason);
    await ended;
    expect(await watching.wait()).toMatchObject({ exit_code: 0 });
  });

  it("is not sent when the signal was aborted before", async () => {
    await expect(vm.execCommand("touch /never", {}, { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: "AbortError" });
    expect((await vm.execCommand("test -e /never")).exit_code).toBe(1);
  });
});

describe("execPython", () => {
  it("gives the outputs, and whether it went well", async () => {
    expect(await vm.execPython({ code: "print(6 * 7)" })).toMatchObject({ exit_code: 0, stdout: "42\n", success: true, error: null });
    expect(await vm.execPython({ code: "1/0" })).toMatchObject({ exit_code: 1, success: false });
  });
});

describe("execute", () => {
  it("hands on bytes in both directions, more than are ever under way at once", async () => {
    const every = new Uint8Array(3 << 20).map((_, index) => (index * 31) ^ (index >> 8));
    const program = await vm.execute(["sha256sum"], { stdin: true });
    await program.write(every);
    program.closeStdin();
    const digest = Buffer.from(await crypto.subtle.digest("SHA-256", every)).toString("hex");
    expect(await text(program)).toBe(`${digest}  -\n`);
    expect(await program.wait()).toMatchObject({ exit_code: 0, signal: null, timed_out: false });
  });

  it("tells the streams apart, and waits for a reader that comes late", async () => {
    const program = await vm.execute("echo out; echo err >&2; exit 7");
    const end: ExecEnd = await program.wait();
    expect(end.exit_code).toBe(7);
    const found = { stdout: "", stderr: "" };
    for await (const { stream, data } of program) found[stream] += Buffer.from(data).toString();
    expect(found).toEqual({ stdout: "out\n", stderr: "err\n" });
  });

  it("sends signals", async () => {
    const program = await vm.execute(["sleep", "1000"]);
    expect(program.pid).toBeGreaterThan(1);
    program.signal(15);
    expect(await program.wait()).toMatchObject({ exit_code: 143, signal: 15 });
  });

  it("runs in a terminal, the size of which can change", async () => {
    const program = await vm.execute("stty size; read x; stty size", { stdin: true, tty: { cols: 91, rows: 31 } });
    program.resize(50, 20);
    await program.write("\n");
    const shown = await text(program);
    expect(shown).toContain("20 50");
  });

  it("fails as a command that cannot be started", async () => {
    await expect(vm.execute(["no-such-program"])).rejects.toMatchObject({ name: "GuestError", code: "command_not_found" });
    await expect(vm.execute("true", { timeout: -1 })).rejects.toMatchObject({ code: "invalid_request" });
  });

  it("ends with its timeout", async () => {
    const program = await vm.execute("sleep 1000", { timeout: 0.2 });
    await expect(program.wait()).rejects.toMatchObject({ name: "Timeout", code: "command_timeout" });
    await gone(program);
  });

  it("ends with its signal, for whoever waits or reads", async () => {
    const controller = new AbortController();
    const program = await vm.execute(["sleep", "1000"], {}, { signal: controller.signal });
    const waiting = expect(program.wait()).rejects.toMatchObject({ name: "AbortError" });
    const reading = expect(program.next()).rejects.toMatchObject({ name: "AbortError" });
    controller.abort();
    await Promise.all([waiting, reading]);
    await gone(program);
  });

  it("ends when it is closed", async () => {
    const program = await vm.execute("exec sleep 1000");
    program.close();
    await expect(program.wait()).rejects.toMatchObject({ code: "conflict" });
    await gone(program);
  });

  it("waits for whoever reads slowly: never is more under way than a window", async () => {
    const proxy = await Proxy.of(inject("server").url);
    try {
      const slow = new MicroVM(vm.vmId, new BandSox({ baseUrl: proxy.url }));
      const program = await slow.execute("head -c 6000000 /dev/zero; echo end >&2");
      let [read, round] = [0, 0];
      for await (const { stream, data } of program) {
        if (stream === "stderr") expect(Buffer.from(data).toString()).toBe("end\n");
        else read += data.length;
        if (read > round * 1_000_000) {
          round++;
          await vm.execCommand("true"); // as long as it takes to hear of the guest otherwise
          expect(proxy.received - read).toBeLessThan((1 << 20) + OVERHEAD);
        }
      }
      expect(read).toBe(6_000_000);
      expect(await program.wait()).toMatchObject({ exit_code: 0 });
    } finally {
      proxy.close();
    }
  });

  it("keeps what was not read when a loop was left, and goes on with it", async () => {
    const program = await vm.execute("head -c 3000000 /dev/zero");
    let read = 0;
    for await (const { data } of program) {
      read += data.length;
      if (read > 1_000_000) break;
    }
    for await (const { data } of program) read += data.length;
    expect(read).toBe(3_000_000);
  });

  it("fails where its end is waited for, and nobody reads what it wants to print before", async () => {
    const program = await vm.execute("head -c 3000000 /dev/zero");
    await expect(program.wait()).rejects.toMatchObject({ name: "GuestError", code: "limit_exceeded" });
    await gone(program);
  });
});

/** Wait until a program of the guest is gone, which the guest itself sees. */
async function gone(program: { pid: number }): Promise<void> {
  const found = await vm.execCommand(`while kill -0 ${program.pid} 2>/dev/null; do :; done`, 60);
  expect(found.exit_code).toBe(0);
}

describe("stream", () => {
  it("gives the output as it comes, and how it ended", async () => {
    const outputs = vm.stream("echo one; exit 4");
    const first = await outputs.next();
    expect(first).toMatchObject({ done: false, value: { stream: "stdout" } });
    expect(await outputs.next()).toMatchObject({ done: true, value: { exit_code: 4 } });
  });

  it("ends the command when the loop is left", async () => {
    let pid = 0;
    for await (const { data } of vm.stream("echo $$; exec sleep 1000")) {
      pid = Number(Buffer.from(data).toString());
      break;
    }
    expect(pid).toBeGreaterThan(1);
    await gone({ pid });
  });
});

describe("sessions", () => {
  it("go on whoever looks on, and are followed from where they were left", async () => {
    const session = await vm.startSession("echo first; read line; echo second $line");
    const first = await vm.attachSession(session.id);
    expect(Buffer.from((await first.next()).value?.data ?? []).toString()).toBe("first\n");
    first.close();
    expect(await vm.listSessions()).toContainEqual(expect.objectContaining({ id: session.id, running: true }));
    const again = await vm.attachSession(session.id, { stdout: 6 });
    expect(again.offsets.stdout).toBe(6);
    await vm.sendSessionInput(session.id, "line\n");
    expect(await text(again)).toBe("second line\n");
    await vm.forgetSession(session.id);
    await expect(vm.attachSession(session.id)).rejects.toMatchObject({ code: "session_not_found" });
  });

  it("are killed with all they have started", async () => {
    const session = await vm.startSession("sleep 1000 & wait", { id: "mine" });
    expect(session.id).toBe("mine");
    const execution = await vm.attachSession("mine");
    await vm.killSession("mine");
    expect(await execution.wait()).toMatchObject({ signal: 9 });
  });
});
