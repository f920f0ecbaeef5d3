"""The Internet of the tests: a program that answers for all of it in the lab's outer namespace.

Its zone is `ZONE`, which a resolver at every address knows; web servers at every address on ports 80 and 443 say which name they were asked
for, with what headers and what digests (SHA-256) of them; what speaks first is on port 2222; datagrams come back from ports 123 and 443.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import struct
import sys
from ipaddress import ip_address

API4, API6, SHARED, DIRECT = "203.0.113.10", "2001:db8:80::10", "203.0.113.11", "203.0.113.12"
SHARED6, DIRECT6 = "2001:db8:80::11", "2001:db8:80::12"
PRIVATE, METADATA, PRIVATE6, METADATA6 = "10.1.2.3", "169.254.169.254", "fd00::99", "fd00:ec2::254"
RESOLVER = "198.51.100.53"
ADDRESSES = (API4, API6, SHARED, SHARED6, DIRECT, DIRECT6, PRIVATE, PRIVATE6, METADATA, METADATA6, RESOLVER)
ZONE = {
    "api.example.com": [API4, API6],
    "www.example.org": ["host.cdn.test"],
    "host.cdn.test": [SHARED],
    "other.example.com": [SHARED],
    "evil.test": [SHARED],
    "rebind.example.com": [PRIVATE],
    "rebind6.example.com": [PRIVATE6, f"::ffff:{PRIVATE}"],
    "metadata.example.com": [METADATA],
    "mixed.example.com": [PRIVATE, API4],
    "time.example.net": [DIRECT],
    "www6.example.org": ["host6.cdn.test"],
    "host6.cdn.test": [SHARED6],
    "other6.example.com": [SHARED6],
    "evil6.test": [SHARED6],
    "metadata6.example.com": [METADATA6],
    "mixed6.example.com": [PRIVATE6, API6],
    "time6.example.net": [DIRECT6],
    "many.example.com": [f"203.0.114.{number}" for number in range(1, 61)],
}
_A, _CNAME, _AAAA, _HTTPS = 1, 5, 28, 65


def answer(query: bytes) -> bytes:
    """A name server's answer."""
    name, kind, end = _question(query)
    records, asked = b"", name
    count = 0
    while asked:
        following = ""
        for value in ZONE.get(asked, []):
            try:
                address = ip_address(value)
            except ValueError:
                following = value
                records, count = records + _record(asked, _CNAME, _wire(value)), count + 1
                continue
            if kind == (_A if address.version == 4 else _AAAA):
                records, count = records + _record(asked, kind, address.packed), count + 1
        asked = following
    code = 0 if name in ZONE else 3
    return query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, count, 0, 0) + query[12:end] + records


def _question(query: bytes) -> tuple[str, int, int]:
    labels, position = [], 12
    while length := query[position]:
        labels.append(query[position + 1 : position + 1 + length].decode())
        position += 1 + length
    return ".".join(labels).lower(), struct.unpack_from("!H", query, position + 1)[0], position + 5


def _wire(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _record(name: str, kind: int, data: bytes) -> bytes:
    return _wire(name) + struct.pack("!HHIH", kind, 1, 3600, len(data)) + data


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, reply: object) -> None:
        self._reply = reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: object) -> None:
        reply = self._reply(data)  # type: ignore[operator]
        if len(reply) > 512 and self._reply is answer:
            reply = reply[:2] + struct.pack("!HHHHH", 0x8380, 1, 0, 0, 0) + reply[12 : _question(data)[2]]
        self._transport.sendto(reply, address)  # type: ignore[attr-defined]


async def _name_service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            query = await reader.readexactly(struct.unpack("!H", await reader.readexactly(2))[0])
        except asyncio.IncompleteReadError:
            break
        reply = answer(query)
        writer.write(struct.pack("!H", len(reply)) + reply)
    writer.close()


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    secure = writer.get_extra_info("ssl_object")
    try:
        while request := await reader.readline():
            headers = {}
            while (line := await reader.readline()).strip():
                key, _, value = line.decode().partition(":")
                headers[key.lower()] = value.strip()
            path = request.decode().split()[1]
            if path.startswith("/bytes/"):
                body = b"x" * int(path.removeprefix("/bytes/"))
            else:
                digests = {key: hashlib.sha256(value.encode()).hexdigest() for key, value in headers.items()}
                asked = {"host": headers.get("host"), "path": path, "sni": getattr(secure, "asked_for", None)}
                seen = {**asked, "headers": headers, "digests": digests}
                body = json.dumps({**seen, "at": writer.get_extra_info("sockname")[0]}).encode() + b"\n"
            status = "302 Found\r\nLocation: http://evil.test/" if path == "/redirect" else "200 OK"
            echo = f"X-Echo: {headers['x-key']}\r\n" if "x-key" in headers else ""
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{echo}\r\n".encode() + body)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    writer.close()


async def _speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\n")
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


def _note_name(sock: ssl.SSLObject, name: str | None, _: object) -> None:
    sock.asked_for = name  # type: ignore[attr-defined]


async def main(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = _note_name
    loop = asyncio.get_running_loop()
    servers = []
    for address in ADDRESSES:
        servers += [
            await asyncio.start_server(_web, address, 80, backlog=512),
            await asyncio.start_server(_web, address, 443, ssl=context),
            await asyncio.start_server(_speaks_first, address, 2222),
            await asyncio.start_server(_name_service, address, 53),
        ]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port, reply in ((53, answer), (123, bytes), (443, bytes)):
            await loop.create_datagram_endpoint(lambda reply=reply: _Datagrams(reply), (address, port), family=family)  # type: ignore[misc]
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
