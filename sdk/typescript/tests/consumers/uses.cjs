// What a program does with the package, whichever way it got it and whatever runs it.

const UPLOADED = 1_000_000;

/** What it finds at a server that asks for a key, and in a machine of another. */
async function uses({ BandSox, MicroVM, NotFound }, [guarded, key, server, id]) {
  const known = new BandSox({ baseUrl: guarded, headers: { Authorization: `Bearer ${key}` } });
  const vm = new MicroVM(id, new BandSox({ baseUrl: server }));
  const stop = new AbortController();
  const ended = vm.execCommand("sleep 1000", {}, { signal: stop.signal }).catch((error) => error.message);
  stop.abort(new Error("enough"));
  return {
    known: (await known.authCheck()).authenticated,
    vms: await known.listVms(),
    made: await known.pullImage("debootstrap:bookworm", "never").catch(codeOf),
    missed: await new MicroVM("none", known).execCommand("true").catch((error) => error instanceof NotFound && error.code),
    executed: await new MicroVM("none", known).execute("true").catch(codeOf),
    aborted: await ended,
    read: await passed(vm),
    printed: await printed(vm).catch(codeOf),
    shown: await shown(vm.connectTerminal(71, 17)),
  };
}

const codeOf = (error) => error.code ?? String(error);

/** How many bytes come back of a stream that is sent. */
async function passed(vm) {
  const path = "/tmp/sent";
  await vm.uploadFile(path, new Blob([new Uint8Array(UPLOADED)]).stream());
  let size = 0;
  const reader = vm.readStream(path).getReader();
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) size += value.length;
  return size;
}

/** What a command prints, as it comes. */
async function printed(vm) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const { data } of vm.stream(["printf", "%s\n", "one", "two"])) text += decoder.decode(data, { stream: true });
  return text;
}

/** The size that a shell in a terminal finds, and how it ends. */
async function shown(terminal) {
  let text = "";
  terminal.onOutput((piece) => (text += piece));
  terminal.sendInput("stty size; exit 7\n");
  return new Promise((resolve) => {
    terminal.onError((error) => resolve(error.code));
    terminal.onClose(({ exitCode }) => resolve(`${/\d+ \d+/.exec(text)?.[0]}, ${exitCode}`));
  });
}

module.exports = { uses };
