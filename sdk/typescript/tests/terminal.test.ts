import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { BandSox, type MicroVM, type TerminalSession, type TerminalState } from "../src/index.js";
import { Proxy } from "./proxy.js";

const server = inject("server");
const bandsox = new BandSox({ baseUrl: server.url });
let vm: MicroVM;

beforeAll(async () => {
  vm = await bandsox.createVm({ mem_mib: 256 });
});

afterAll(async () => {
  await vm.delete();
});

/** What a terminal shows, and a way to wait for it. */
class Screen {
  text = "";
  readonly states: TerminalState[] = [];
  readonly closed: Promise<number | undefined>;
  #waiting: (() => void)[] = [];

  constructor(terminal: TerminalSession) {
    this.closed = new Promise((resolve) =>
      terminal.onClose(({ exitCode }) => {
        resolve(exitCode);
      }),
    );
    terminal.onOutput((text) => {
      this.text += text;
      this.#wake();
    });
    terminal.onState((state) => {
      this.states.push(state);
      this.#wake();
    });
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  async shows(text: string): Promise<void> {
    await this.until(() => this.text.includes(text));
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

describe("a terminal", () => {
  it("shows what is typed and printed, in any script, and how it ended", async () => {
    const terminal = bandsox.connectTerminal(vm.vmId, 91, 31);
    const screen = new Screen(terminal);
    terminal.sendInput("stty size; echo grüß$((1+1)) 你好\n");
    await screen.shows("31 91");
    await screen.shows("grüß2 你好");
    terminal.resize(50, 20);
    terminal.sendInput("stty size\n");
    await screen.shows("20 50");
    terminal.sendInput("exit 5\n");
    expect(await screen.closed).toBe(5);
    expect(terminal.closed).toBe(true);
    expect(screen.states).toEqual(["connecting", "connected", "closed"]);
  });

  it("keeps what happened for whoever listens later", async () => {
    const terminal = vm.connectTerminal(80, 24, { command: "echo early" });
    await new Promise<void>((resolve) =>
      terminal.onClose(() => {
        resolve();
      }),
    );
    let shown = "";
    terminal.onOutput((text) => (shown += text));
    expect(shown).toBe("early\r\n");
  });

  it("ends with everything that runs in it when it is closed", async () => {
    const terminal = vm.connectTerminal(80, 24, { command: "echo pid $$.; exec sleep 1000" });
    const screen = new Screen(terminal);
    await screen.shows(".\r\n");
    const pid = /pid (\d+)/.exec(screen.text)?.[1] ?? "";
    terminal.close();
    terminal.sendInput("nobody reads this");
    expect(await screen.closed).toBeUndefined();
    expect((await vm.execCommand(`while kill -0 ${pid} 2>/dev/null; do :; done`, 60)).exit_code).toBe(0);
  });

  it("ends with its signal, and is not begun where that was aborted before", async () => {
    const stop = new AbortController();
    const terminal = vm.connectTerminal(80, 24, { command: "echo pid $$.; exec sleep 1000", signal: stop.signal });
    const screen = new Screen(terminal);
    await screen.shows(".\r\n");
    const pid = /pid (\d+)/.exec(screen.text)?.[1] ?? "";
    stop.abort();
    expect(await screen.closed).toBeUndefined();
    expect((await vm.execCommand(`while kill -0 ${pid} 2>/dev/null; do :; done`, 60)).exit_code).toBe(0);
    const never = vm.connectTerminal(80, 24, { signal: stop.signal });
    expect(never.closed).toBe(true);
    expect(never.session).toBeUndefined();
  });

  it("makes its program wait for whoever shows it slowly, and loses nothing", async () => {
    const terminal = vm.connectTerminal(80, 24, { command: "stty -opost; seq 1 400000; echo end." });
    let shown = "";
    let under_way = 0;
    const closed = new Promise<void>((resolve) =>
      terminal.onClose(() => {
        resolve();
      }),
    );
    terminal.onOutput(async (text) => {
      expect(++under_way).toBe(1); // the next piece waits until this one is shown
      await Promise.resolve();
      shown += text;
      under_way--;
    });
    await closed;
    expect(shown).toBe(`${Array.from({ length: 400_000 }, (_, index) => index + 1).join("\n")}\nend.\n`);
  });

  it("is left running, and come back to by its session", async () => {
    const terminal = vm.connectTerminal(80, 24, { command: "echo before; read x; echo after $x" });
    await new Screen(terminal).shows("before");
    terminal.detach();
    const again = vm.connectTerminal(80, 24, { session: terminal.session ?? "" });
    const screen = new Screen(again);
    await screen.shows("before"); // the screen is there again
    again.sendInput("all\n");
    await screen.shows("after all");
    expect(await screen.closed).toBe(0);
  });

  it("fails where there is no machine", async () => {
    const terminal = bandsox.connectTerminal("none");
    const error = await new Promise((resolve) => terminal.onError(resolve));
    expect(error).toMatchObject({ code: "vm_not_found" });
    expect(terminal.closed).toBe(true);
  });
});

describe("a connection that is lost", () => {
  it("is taken up again, and nothing is missing", async () => {
    const proxy = await Proxy.of(server.url);
    try {
      const terminal = new BandSox({ baseUrl: proxy.url }).connectTerminal(vm.vmId, 80, 24, {
        command: "i=0; while read x; do i=$((i+1)); echo line $i $x.; done",
      });
      const screen = new Screen(terminal);
      terminal.sendInput("a\n");
      await screen.shows("line 1 a.");
      for (const round of [2, 3]) {
        const connected = screen.states.length;
        proxy.cut();
        await screen.until(() => screen.states[connected] === "reconnecting");
        terminal.sendInput(`${round}\n`); // while it is away
        await screen.shows(`line ${round} ${round}.`);
      }
      expect(screen.text.match(/line \d/g)).toEqual(["line 1", "line 2", "line 3"]);
      terminal.close();
    } finally {
      proxy.close();
    }
  });

  it("comes back when the server was killed and runs again", async () => {
    const first = await serve(0);
    const port = Number(new URL(first.url).port);
    const terminal = new BandSox({ baseUrl: first.url }).connectTerminal(vm.vmId, 80, 24, { command: "echo ready; read x; echo still $x" });
    const screen = new Screen(terminal);
    await screen.shows("ready");
    first.process.kill("SIGKILL");
    await screen.until(() => screen.states.includes("reconnecting"));
    const second = await serve(port);
    try {
      terminal.sendInput("here\n");
      await screen.shows("still here");
      expect(await screen.closed).toBe(0);
    } finally {
      second.process.kill();
    }
  });

  it("is given up after its time, and says why", async () => {
    const proxy = await Proxy.of(server.url);
    const terminal = new BandSox({ baseUrl: proxy.url }).connectTerminal(vm.vmId, 80, 24, {
      command: "echo on; sleep 1000",
      reconnectFor: 0,
    });
    const screen = new Screen(terminal);
    await screen.shows("on");
    const failed = new Promise((resolve) => terminal.onError(resolve));
    proxy.close();
    expect(await failed).toMatchObject({ code: "outcome_unknown" });
    await vm.killSession(terminal.session ?? "");
  });
});

/** A further server of the same storage directory. */
async function serve(port: number): Promise<{ url: string; process: ChildProcess }> {
  const words = ["-m", "bandsox", "--json", "--storage", server.storage, "serve", "--port", String(port)];
  const process = spawn(server.python, words, { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(createInterface(process.stdout), "line")) as [string];
  return { url: (JSON.parse(line) as { url: string }).url, process };
}
