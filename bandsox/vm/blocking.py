"""The blocking face of a machine, made of the asynchronous one."""

from __future__ import annotations

from bandsox.portal import sync, sync_iterator
from bandsox.vm.handle import AsyncMicroVM
from bandsox.vm.ports import BlockingStream


class MicroVM:
    """The blocking face of `AsyncMicroVM`: the same methods, parameters and results; see there.

    Callbacks run in the thread that called; those of sessions run in a thread of the session's own.
    """

    def __init__(self, vm: AsyncMicroVM) -> None:
        self._async = vm

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncMicroVM", "MicroVM", 1)

    def __enter__(self) -> MicroVM:
        return self

    __exit__ = sync(AsyncMicroVM.__aexit__)

    vm_id = property(lambda self: self._async.vm_id, doc=AsyncMicroVM.vm_id.__doc__)
    name = property(lambda self: self._async.name, doc=AsyncMicroVM.name.__doc__)
    process = property(lambda self: self._async.process, doc=AsyncMicroVM.process.__doc__)
    receipt = property(lambda self: self._async.receipt, doc=AsyncMicroVM.receipt.__doc__)

    info = sync(AsyncMicroVM.info)
    status = sync(AsyncMicroVM.status)
    start = sync(AsyncMicroVM.start)
    stop = sync(AsyncMicroVM.stop)
    pause = sync(AsyncMicroVM.pause)
    resume = sync(AsyncMicroVM.resume)
    hibernate = sync(AsyncMicroVM.hibernate)
    set_deadlines = sync(AsyncMicroVM.set_deadlines)
    delete = sync(AsyncMicroVM.delete)
    keep = sync(AsyncMicroVM.keep)
    snapshot = sync(AsyncMicroVM.snapshot)
    fork = sync(AsyncMicroVM.fork).then(lambda _, clones: [MicroVM(clone) for clone in clones])
    checkpoint = sync(AsyncMicroVM.checkpoint)
    checkpoints = sync(AsyncMicroVM.checkpoints)
    remove_checkpoint = sync(AsyncMicroVM.remove_checkpoint)
    rewind = sync(AsyncMicroVM.rewind)
    diff = sync(AsyncMicroVM.diff)
    wait_for_agent = sync(AsyncMicroVM.wait_for_agent)
    disconnect = sync(AsyncMicroVM.disconnect)

    run = sync(AsyncMicroVM.run)
    exec_command = sync(AsyncMicroVM.exec_command)
    exec_python = sync(AsyncMicroVM.exec_python)
    exec_python_capture = sync(AsyncMicroVM.exec_python_capture)

    start_session = sync(AsyncMicroVM.start_session, background=True)
    start_pty_session = sync(AsyncMicroVM.start_pty_session, background=True)
    attach_session = sync(AsyncMicroVM.attach_session, background=True)
    send_session_input = sync(AsyncMicroVM.send_session_input)
    close_session_input = sync(AsyncMicroVM.close_session_input)
    resize_session = sync(AsyncMicroVM.resize_session)
    signal_session = sync(AsyncMicroVM.signal_session)
    kill_session = sync(AsyncMicroVM.kill_session)
    list_sessions = sync(AsyncMicroVM.list_sessions)

    get_file_contents = sync(AsyncMicroVM.get_file_contents)
    read_bytes = sync(AsyncMicroVM.read_bytes)
    list_dir = sync(AsyncMicroVM.list_dir)
    scan_dir = sync(AsyncMicroVM.scan_dir)
    get_file_info = sync(AsyncMicroVM.get_file_info)
    stat = sync(AsyncMicroVM.stat)
    download_file = sync(AsyncMicroVM.download_file)
    upload_file = sync(AsyncMicroVM.upload_file)
    append_file = sync(AsyncMicroVM.append_file)
    write_text = sync(AsyncMicroVM.write_text)
    append_text = sync(AsyncMicroVM.append_text)
    write_bytes = sync(AsyncMicroVM.write_bytes)
    upload_folder = sync(AsyncMicroVM.upload_folder)
    download_folder = sync(AsyncMicroVM.download_folder)
    make_dir = sync(AsyncMicroVM.make_dir)
    remove = sync(AsyncMicroVM.remove)
    rename = sync(AsyncMicroVM.rename)
    chmod = sync(AsyncMicroVM.chmod)

    expose = sync(AsyncMicroVM.expose)
    unexpose = sync(AsyncMicroVM.unexpose)
    ports = sync(AsyncMicroVM.ports)
    connect = sync(AsyncMicroVM.connect).then(lambda _, stream: BlockingStream(stream))
    send_http_request = sync(AsyncMicroVM.send_http_request)

    balloon = sync(AsyncMicroVM.balloon)
    set_balloon = sync(AsyncMicroVM.set_balloon)
    set_mmds = sync(AsyncMicroVM.set_mmds)
    set_network_policy = sync(AsyncMicroVM.set_network_policy)
    network_policy = sync(AsyncMicroVM.network_policy)
    set_secret = sync(AsyncMicroVM.set_secret)
    secrets = sync(AsyncMicroVM.secrets)
    network_stats = sync(AsyncMicroVM.network_stats)
    network_log = sync(AsyncMicroVM.network_log)
    learned_policy = sync(AsyncMicroVM.learned_policy)

    metrics = sync(AsyncMicroVM.metrics)
    guest_info = sync(AsyncMicroVM.guest_info)
    console = sync(AsyncMicroVM.console)
    connect_to_console = sync(AsyncMicroVM.connect_to_console)
    get_guest_ip = sync(AsyncMicroVM.get_guest_ip)

    watch = sync_iterator(AsyncMicroVM.watch)
    follow_network_log = sync_iterator(AsyncMicroVM.follow_network_log)
    follow_console = sync_iterator(AsyncMicroVM.follow_console)
    stream = sync_iterator(AsyncMicroVM.stream)
