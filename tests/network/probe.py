"""What a guest of the tests tries, of a list on its command line, and what came of each as JSON: `ok …`, or the error's name."""

from __future__ import annotations

import concurrent.futures
import errno
import http.client
import ipaddress
import itertools
import json
import socket
import ssl
import struct
import sys
import time

PATIENCE_S = 60


def resolve(name):
    found = socket.getaddrinfo(name, 1, type=socket.SOCK_STREAM)
    return sorted({entry[4][0] for entry in found})


def dns(server, name, kind=1, over="udp"):
    """Ask one name server; the answer's code and how many records it has."""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + wire + struct.pack("!HH", kind, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if over == "udp" else socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((server, 53))
        if over == "udp":
            sock.send(query)
            reply = sock.recv(4096)
        else:
            sock.sendall(struct.pack("!H", len(query)) + query)
            with sock.makefile("rb") as file:
                reply = file.read(struct.unpack("!H", file.read(2))[0])
    return [reply[3] & 15, struct.unpack_from("!H", reply, 6)[0]]


def tcp(address, port):
    with socket.create_connection((address, port), PATIENCE_S):
        return "connected"


def greeting(address, port):
    with socket.create_connection((address, port), PATIENCE_S) as connection:
        connection.sendall(b"ping")
        with connection.makefile("rb") as file:
            return (file.readline() + file.read(4)).decode()


def udp(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((address, port))
        sock.send(b"ping")
        return sock.recv(16).decode()


def web(place, port, *hosts, path="/"):
    """Requests over one connection, each for another host: the status and the host of each."""
    connection = http.client.HTTPConnection(place, port, timeout=PATIENCE_S)
    seen = []
    for host in hosts:
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        body = response.read()
        seen.append([response.status, json.loads(body)["host"] if response.status == 200 else ""])
    return seen


def tls(place, port, sni):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection((place, port), PATIENCE_S)
    with plain, context.wrap_socket(plain, server_hostname=sni or None) as secure, secure.makefile("rb") as file:
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {sni}\r\n\r\n".encode())
        while file.readline().strip():
            pass
        return json.loads(file.readline() or b"{}").get("sni", "?")


def parallel(count, place, host):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return sum(1 for result in pool.map(lambda _: web(place, 80, host), range(count)) if result == [[200, host]])


def hold(address, port, count):
    """How many of so many connections are open at once."""
    opened = []
    try:
        for _ in range(count):
            try:
                opened.append(socket.create_connection((address, port), PATIENCE_S))
            except ConnectionRefusedError:
                continue
        return len(opened)
    finally:
        for connection in opened:
            connection.close()


def scan(networks, ports):
    """Who answers in any way but by a refusal, of the first addresses of networks."""
    answered = []
    for network in networks:
        for address in itertools.islice(ipaddress.ip_network(network).hosts(), 40):
            for port in ports:
                try:
                    socket.create_connection((str(address), port), PATIENCE_S).close()
                    answered.append(f"{address} {port}")
                except ConnectionRefusedError:
                    continue
                except OSError as error:
                    answered.append(f"{address} {port} {error}")
    return answered


def download(place, host, size):
    """Bytes a second."""
    connection = http.client.HTTPConnection(place, 80, timeout=PATIENCE_S)
    started = time.monotonic()
    connection.request("GET", f"/bytes/{size}", headers={"Host": host})
    response = connection.getresponse()
    left = size
    while block := response.read(1 << 20):
        left -= len(block)
    assert left == 0
    return size / (time.monotonic() - started)


def attempt(step):
    try:
        return globals()[step[0]](*step[1:])
    except ssl.SSLError as error:
        return type(error).__name__
    except socket.gaierror as error:
        return {socket.EAI_NONAME: "EAI_NONAME", socket.EAI_AGAIN: "EAI_AGAIN"}.get(error.errno or 0, str(error))
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except http.client.HTTPException as error:
        return type(error).__name__


if __name__ == "__main__":
    print(json.dumps([attempt(step) for step in json.loads(sys.argv[1])]))
