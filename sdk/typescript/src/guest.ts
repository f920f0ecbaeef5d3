/** What goes on inside a machine: commands, sessions, terminals and files. */

import { type Connection, type Opened } from "./connection.js";
import { HostError, InvalidRequest, MachineError, Timeout } from "./errors.js";
import { Execution, type ExecEnd, type Output } from "./execution.js";
import { LINES, type Line, linesOf } from "./lines.js";
import { type ConnectOptions, GuestSocket } from "./socket.js";
import { archive } from "./tar.js";
import { TerminalSession, type TerminalOptions } from "./terminal.js";
import { bodyOf, browserBody, changed, inBrowser, released, resumed, sendFromBrowser } from "./transfer.js";
import {
  type BalloonInfo,
  type CallOptions,
  type ExecOptions,
  type ExecPythonOptions,
  type ExecPythonResult,
  type ExecResult,
  type ExecuteOptions,
  type FileChange,
  type FileInfo,
  type FileStat,
  type GuestInfo,
  type HttpProxyOptions,
  type HttpProxyResult,
  type ListDirResult,
  type Metrics,
  type PortInfo,
  type ReadOptions,
  type SessionInfo,
  type SessionOptions,
  type StartedSession,
  type TreeResult,
  type UploadContent,
  type UploadFolderFiles,
  type UploadOptions,
  type WriteFileOptions,
  type WriteResult,
} from "./types.js";

/** A command for the image's shell, or a list of a program and its arguments, which no shell reads. */
export type Command = string | readonly string[];

/** The part of {@link MicroVM} that is answered by its agent. */
export abstract class Guest {
  /** Its id. */
  readonly vmId: string;
  /** @internal */
  protected readonly connection: Connection;
  /** @internal */
  protected readonly machine: { path: { vm: string } };

  /** @internal */
  protected constructor(vmId: string, connection: Connection) {
    this.vmId = vmId;
    this.connection = connection;
    this.machine = { path: { vm: vmId } };
  }

  // ── commands ──────────────────────────────────────────────────────────────────────────────────

  /**
   * Run a command to its end.
   *
   * @param options or only the seconds after which it is killed.
   * @throws Timeout: it was killed, with the code `command_timeout`. GuestError: it could not be started.
   */
  async execCommand(command: Command, options: number | ExecOptions = {}, call?: CallOptions): Promise<ExecResult> {
    const given = typeof options === "number" ? { timeout: options } : options;
    const request = { ...this.machine, body: { ...program(command), ...given } };
    return this.connection.call("post", "/api/vms/{vm}/exec", request, { ...call, patient: true });
  }

  /** Run Python code in a fresh interpreter of the image. */
  async execPython(options: ExecPythonOptions, call?: CallOptions): Promise<ExecPythonResult> {
    return this.connection.call("post", "/api/vms/{vm}/exec-python", { ...this.machine, body: options }, { ...call, patient: true });
  }

  /**
   * Start a command, which ends with its connection. The signal ends it too.
   *
   * @throws as {@link execCommand}.
   */
  async execute(command: Command, options: ExecuteOptions = {}, call?: CallOptions): Promise<Execution> {
    const url = this.connection.url("/api/vms/{vm}/exec-stream", this.machine);
    return Execution.open(this.connection, url, { ...program(command), ...options, format: "binary" }, call);
  }

  /**
   * The output of a command as it comes, and at the end how it ended. To leave the loop ends the command.
   *
   * @example
   * ```ts
   * for await (const { stream, data } of vm.stream("make test")) process[stream].write(data);
   * ```
   */
  async *stream(command: Command, options: ExecuteOptions = {}, call?: CallOptions): AsyncGenerator<Output, ExecEnd, undefined> {
    const execution = await this.execute(command, options, call);
    try {
      for await (const output of execution) yield output;
      return await execution.wait();
    } finally {
      execution.close();
    }
  }

  // ── sessions ──────────────────────────────────────────────────────────────────────────────────

  /** Start a command that goes on until it ends or is killed, whoever looks on. */
  async startSession(command: Command, options: SessionOptions = {}, call?: CallOptions): Promise<StartedSession> {
    const request = { ...this.machine, body: { ...program(command), ...options } };
    return this.connection.call("post", "/api/vms/{vm}/sessions", request, call);
  }

  /** Follow a session, its output from the given offsets on, or from the beginning of what is kept of it. */
  async attachSession(
    session: string,
    offsets: { stdout?: number | undefined; stderr?: number | undefined } = {},
    call?: CallOptions,
  ): Promise<Execution> {
    const parts = { path: { ...this.machine.path, session }, query: offsets };
    return Execution.open(this.connection, this.connection.url("/api/vms/{vm}/sessions/{session}/attach", parts), undefined, call);
  }

  /** The sessions, oldest first, those that have ended lately included. */
  async listSessions(call?: CallOptions): Promise<SessionInfo[]> {
    return this.connection.call("get", "/api/vms/{vm}/sessions", this.machine, call);
  }

  /** Feed a session, whether somebody follows it or not. */
  async sendSessionInput(
    session: string,
    input: string | Uint8Array<ArrayBuffer>,
    options: { close?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const request = { path: { ...this.machine.path, session }, query: options };
    await this.connection.call("post", "/api/vms/{vm}/sessions/{session}/input", request, { ...call, content: input, patient: true });
  }

  /** Tell a session the size of its terminal in characters. */
  async resizeSession(session: string, cols: number, rows: number, call?: CallOptions): Promise<void> {
    const request = { path: { ...this.machine.path, session }, body: { cols, rows } };
    await this.connection.call("post", "/api/vms/{vm}/sessions/{session}/resize", request, call);
  }

  /** Send a session's process group a signal, by its number. */
  async signalSession(session: string, signal: number, call?: CallOptions): Promise<void> {
    const request = { path: { ...this.machine.path, session }, body: { signal } };
    await this.connection.call("post", "/api/vms/{vm}/sessions/{session}/signal", request, call);
  }

  /** Kill a session with everything it has started. */
  async killSession(session: string, call?: CallOptions): Promise<void> {
    await this.signalSession(session, 9, call);
  }

  /** Forget a session that has ended, with its output. */
  async forgetSession(session: string, call?: CallOptions): Promise<void> {
    await this.connection.call("delete", "/api/vms/{vm}/sessions/{session}", { path: { ...this.machine.path, session } }, call);
  }

  /** Open a terminal. It connects by itself, now and whenever the connection is lost. */
  connectTerminal(cols = 80, rows = 24, options: TerminalOptions = {}): TerminalSession {
    const host = {
      start: async (command: string, { cols, rows, ...given }: ExecuteOptions & { cols: number; rows: number }) =>
        (await this.startSession(command, { ...given, stdin: true, tty: { cols, rows } })).id,
      attach: async (session: string, stdout: number | undefined, signal: AbortSignal) =>
        this.attachSession(session, { stdout }, { signal }),
      end: async (session: string) => {
        await this.killSession(session).catch(() => undefined); // it may have ended
        await this.forgetSession(session);
      },
    };
    return new TerminalSession(host, cols, rows, options);
  }

  // ── files ─────────────────────────────────────────────────────────────────────────────────────

  /** The entries of a directory, by name. */
  async listDir(path = "/", call?: CallOptions): Promise<ListDirResult> {
    return this.connection.call("get", "/api/vms/{vm}/files", { ...this.machine, query: { path } }, call);
  }

  /** A text file. What is not UTF-8 appears as U+FFFD. */
  async readFile(path: string, call?: CallOptions): Promise<string> {
    const { content } = await this.connection.call("get", "/api/vms/{vm}/read-file", { ...this.machine, query: { path } }, call);
    return content;
  }

  /** Write a file, which appears whole or not at all. */
  async writeFile(options: WriteFileOptions, call?: CallOptions): Promise<WriteResult> {
    return this.connection.call("post", "/api/vms/{vm}/write-file", { ...this.machine, body: options }, { ...call, patient: true });
  }

  /** Append to a file. */
  async appendFile(path: string, content: string, encoding: "utf-8" | "base64" = "utf-8", call?: CallOptions): Promise<WriteResult> {
    const body = { path, content, encoding, append: true };
    return this.connection.call("post", "/api/vms/{vm}/append-file", { ...this.machine, body }, { ...call, patient: true });
  }

  /** Append text to a file. */
  async appendText(path: string, content: string, call?: CallOptions): Promise<WriteResult> {
    return this.appendFile(path, content, "utf-8", call);
  }

  /** A file's size, mode and time of modification. */
  async getFileInfo(path: string, call?: CallOptions): Promise<FileInfo> {
    const { info } = await this.connection.call("get", "/api/vms/{vm}/file-info", { ...this.machine, query: { path } }, call);
    return info;
  }

  /** Everything that is known of a file; with `follow`, as by default, of the one a symbolic link leads to. */
  async stat(path: string, options: { follow?: boolean } = {}, call?: CallOptions): Promise<FileStat> {
    return (await this.connection.call("get", "/api/vms/{vm}/stat", { ...this.machine, query: { path, ...options } }, call)) as FileStat;
  }

  /** Make a directory, by default with those above it. */
  async makeDir(path: string, options: { parents?: boolean } = {}, call?: CallOptions): Promise<void> {
    await this.connection.call("post", "/api/vms/{vm}/directories", { ...this.machine, body: { path, ...options } }, call);
  }

  /** Remove a file or an empty directory; with `recursive` a whole tree. */
  async remove(path: string, options: { recursive?: boolean } = {}, call?: CallOptions): Promise<void> {
    await this.connection.call(
      "delete",
      "/api/vms/{vm}/files",
      { ...this.machine, query: { path, ...options } },
      { ...call, patient: true },
    );
  }

  /** Give a file another name, replacing what has it. */
  async renameFile(path: string, to: string, call?: CallOptions): Promise<void> {
    await this.connection.call("post", "/api/vms/{vm}/files/rename", { ...this.machine, body: { path, to } }, call);
  }

  /** Set a file's permission bits, such as 0o755. */
  async chmod(path: string, mode: number, options: { recursive?: boolean } = {}, call?: CallOptions): Promise<void> {
    await this.connection.call(
      "put",
      "/api/vms/{vm}/files/mode",
      { ...this.machine, body: { path, mode, ...options } },
      { ...call, patient: true },
    );
  }

  /**
   * Write a file of any size, in constant memory where its content is a stream, a `Blob` or a `File`. It appears whole or not at all, unless it
   * is appended to.
   */
  async uploadFile(path: string, content: UploadContent, options: UploadOptions = {}, call?: CallOptions): Promise<WriteResult> {
    const { onProgress, mode, ...rest } = options;
    const query = { path, ...rest, mode: mode?.toString(8) };
    return (await this.#put("/api/vms/{vm}/file", query, content, onProgress, call)) as WriteResult;
  }

  /** A whole file. {@link readStream} needs no memory for it. */
  async downloadFile(path: string, call?: CallOptions): Promise<Uint8Array<ArrayBuffer>> {
    return new Uint8Array(await new Response(this.readStream(path, {}, call)).arrayBuffer());
  }

  /** A file's bytes while they arrive, of any size. Where the connection breaks off it goes on with the rest, as long as the file is the same. */
  readStream(path: string, { offset = 0, length }: ReadOptions = {}, call?: CallOptions): ReadableStream<Uint8Array> {
    const end = length === undefined ? "" : String(offset + length - 1);
    return resumed(
      async (from, tag) => {
        const headers: Record<string, string> = from > 0 || end !== "" ? { range: `bytes=${from}-${end}` } : {};
        if (tag !== undefined) headers["if-range"] = tag;
        const opened = await this.connection.open(
          "get",
          "/api/vms/{vm}/download",
          { ...this.machine, query: { path } },
          { ...call, headers },
        );
        if (tag !== undefined && opened.answer.status !== 206) {
          opened.release();
          await opened.answer.body?.cancel();
          throw changed(path);
        }
        return { body: released(opened), tag: opened.answer.headers.get("etag") ?? undefined };
      },
      { from: offset, retries: this.connection.retries, signal: call?.signal },
    );
  }

  /** Write files below a directory, which is made when absent, all in one request. */
  async uploadFolder(
    files: UploadFolderFiles,
    base: string,
    options: { onProgress?: (bytes: number) => void } = {},
    call?: CallOptions,
  ): Promise<TreeResult> {
    const content = archive(Object.entries(files).map(([path, data]) => [path.replace(/^\/+/, ""), data]));
    return (await this.#put("/api/vms/{vm}/tree", { path: base }, content, options.onProgress, call)) as TreeResult;
  }

  /** A directory with all below it, as a stream of a tar archive whose top is called `base`. */
  async downloadFolder(path: string, options: { base?: string } = {}, call?: CallOptions): Promise<ReadableStream<Uint8Array>> {
    return released(await this.connection.open("get", "/api/vms/{vm}/tree", { ...this.machine, query: { path, ...options } }, call));
  }

  /**
   * What changes at a path, or at and below it with `recursive`, from the moment on at which this returns. It ends with its signal, or when the loop
   * is left.
   */
  async watch(
    path: string,
    options: { recursive?: boolean } = {},
    call?: CallOptions,
  ): Promise<AsyncGenerator<FileChange, void, undefined>> {
    const request = { ...this.machine, query: { path, ...options } };
    const opened = await this.connection.open("get", "/api/vms/{vm}/watch", request, { ...call, headers: { accept: LINES } });
    const lines = this.followed(opened, call);
    await lines.next(); // that it has begun
    return lines as unknown as AsyncGenerator<FileChange, void, undefined>;
  }

  // ── ports ─────────────────────────────────────────────────────────────────────────────────────

  /** Send an HTTP request to a port of the guest. Redirects are not followed: they could lead out of it. */
  async sendHttpRequest(options: HttpProxyOptions, call?: CallOptions): Promise<HttpProxyResult> {
    return this.connection.call("post", "/api/vms/{vm}/http", { ...this.machine, body: options }, { ...call, patient: true });
  }

  /** The ports that it publishes on the server's host, and how they are used. */
  async ports(call?: CallOptions): Promise<PortInfo[]> {
    return this.connection.call("get", "/api/vms/{vm}/ports", this.machine, call);
  }

  /** Publish a port on the server's host, until {@link unexpose}. Returns its address there. */
  async expose(guestPort: number, options: { host_port?: number; host?: string } = {}, call?: CallOptions): Promise<string> {
    const request = { ...this.machine, body: { guest_port: guestPort, ...options } };
    return (await this.connection.call("post", "/api/vms/{vm}/ports", request, call)).url;
  }

  /**
   * Connect to a TCP port, through the server: nothing has to be published.
   *
   * @throws GuestError: nothing listens there, or it cannot be reached. Timeout: it did not come about in time.
   */
  async connect(guestPort: number, options: ConnectOptions = {}, call?: CallOptions): Promise<GuestSocket> {
    const parts = { path: { ...this.machine.path, port: String(guestPort) }, query: { ...options } };
    return GuestSocket.open(this.connection, this.connection.url("/api/vms/{vm}/ports/{port}/connect", parts), call);
  }

  /** Publish a port no longer; connections that were made go on. */
  async unexpose(guestPort: number, call?: CallOptions): Promise<void> {
    const path = { ...this.machine.path, port: guestPort };
    await this.connection.call("delete", "/api/vms/{vm}/ports/{port}", { path }, call);
  }

  /** An address at which a browser finds a port of the guest, through the server's proxy. It lets one in, within half a minute. */
  async linkToPort(guestPort: number, call?: CallOptions): Promise<string> {
    const path = { ...this.machine.path, port: guestPort };
    return (await this.connection.call("post", "/api/vms/{vm}/ports/{port}/link", { path }, call)).url;
  }

  // ── what a hypervisor with a balloon or a metadata service adds ───────────────────────────────

  /** How large its balloon is, and what the guest says of the rest of its memory. */
  async balloon(call?: CallOptions): Promise<BalloonInfo> {
    return this.connection.call("get", "/api/vms/{vm}/balloon", this.machine, call);
  }

  /** Have its balloon take so much of its memory, in MiB, little by little, now and at later starts. */
  async setBalloon(mib: number, call?: CallOptions): Promise<void> {
    await this.connection.call("put", "/api/vms/{vm}/balloon", { ...this.machine, body: { mib } }, call);
  }

  /** Have its metadata service say this, now and at later starts. */
  async setMmds(data: Record<string, unknown>, call?: CallOptions): Promise<void> {
    await this.connection.call("put", "/api/vms/{vm}/mmds", { ...this.machine, body: { data } }, call);
  }

  // ── what it says of itself ────────────────────────────────────────────────────────────────────

  /** What its agent says of itself and its kernel. */
  async guestInfo(call?: CallOptions): Promise<GuestInfo> {
    return (await this.connection.call("get", "/api/vms/{vm}/agent", this.machine, call)) as GuestInfo;
  }

  /** How busy it is, as its own kernel sees it; its processes when asked for. */
  async metrics(options: { processes?: boolean } = {}, call?: CallOptions): Promise<Metrics> {
    return this.connection.call("get", "/api/vms/{vm}/stats", { ...this.machine, query: options }, call);
  }

  /** What it has printed on its console since it was started, at most the first 256 KiB. */
  async console(call?: CallOptions): Promise<string> {
    return (await this.connection.call("get", "/api/vms/{vm}/console", this.machine, call)).console;
  }

  /** What it has printed on its console, and what it prints from now on. It ends with its signal, or when the loop is left. */
  async *followConsole(call?: CallOptions): AsyncGenerator<string, void, undefined> {
    const opened = await this.connection.open("get", "/api/vms/{vm}/console/follow", this.machine, { ...call, headers: { accept: LINES } });
    for await (const line of this.followed(opened, call)) if (line.type === "output") yield String(line.data);
  }

  /**
   * Whether its agent answers, or begins to within so many seconds. A VM that is made, started or restored answers when that returns: there is
   * nothing to wait for, unless another program does it.
   */
  async waitForAgent(timeout = 30, call?: CallOptions): Promise<boolean> {
    try {
      await this.connection.call("get", "/api/vms/{vm}/agent", this.machine, { ...call, timeout: timeout * 1000 });
      return true;
    } catch (error) {
      if (error instanceof MachineError || error instanceof HostError || error instanceof Timeout || error instanceof InvalidRequest)
        return false;
      throw error;
    }
  }

  /** @internal */
  protected async *followed(opened: Opened, call: CallOptions | undefined): AsyncGenerator<Line, void, undefined> {
    try {
      yield* linesOf(released(opened));
    } catch (error) {
      call?.signal?.throwIfAborted();
      throw error;
    }
  }

  async #put(
    route: "/api/vms/{vm}/file" | "/api/vms/{vm}/tree",
    query: { path: string },
    content: UploadContent,
    onProgress: ((bytes: number) => void) | undefined,
    call: CallOptions | undefined,
  ): Promise<unknown> {
    const request = { ...this.machine, query };
    if (inBrowser())
      return sendFromBrowser(this.connection, "PUT", this.connection.url(route, request), browserBody(content), onProgress, call);
    return this.connection.call("put", route, request, { ...call, content: bodyOf(content, onProgress), patient: true });
  }
}

function program(command: Command): { command: string } | { argv: string[] } {
  return typeof command === "string" ? { command } : { argv: [...command] };
}
