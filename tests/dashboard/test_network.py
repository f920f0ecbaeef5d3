"""Where a VM may go, and where it went, in the browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from bandsox import BandSox, MicroVM, Policy, Secret
from tests.dashboard.browsing import barriers, menu

_CONNECT = "import socket; socket.create_connection(('192.0.2.77', 81), 60)"

_ASK = r"""
import socket, struct
server = next(line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver"))
labels = [b"<img src=x onerror=document.title='owned'>", b"\x1b]0;owned\x07", b"example"]
name = b"".join(bytes([len(each)]) + each for each in labels) + b"\0"
asking = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(60)
asking.sendto(struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1), (server, 53))
print(asking.recv(512)[3] & 15)
"""


@pytest.fixture(scope="module")
def policed(bandsox: BandSox) -> Iterator[MicroVM]:
    secrets = {"API_KEY": Secret("open-sesame", hosts=["api.example.com"])}
    with bandsox.create_vm(name="policed", mem_mib=256, network=Policy(allow=("api.example.com",)), secrets=secrets) as vm:
        if vm.info()["network_config"] is None:
            pytest.skip("this host gives no network")
        yield vm


def test_a_policy_is_shown_edited_and_put_in_force(page: Page, policed: MicroVM) -> None:
    page.goto("/vms/policed/network")
    policy = page.get_by_role("region", name="Policy")
    expect(policy).to_contain_text("api.example.com")
    policy.get_by_role("button", name="Edit").click()
    policy.get_by_label("Allow").fill("http://example.com/")
    policy.get_by_role("button", name="Put in force").click()
    expect(policy.get_by_role("alert")).to_contain_text("http://example.com/")
    assert policed.network_policy() == Policy(allow=("api.example.com",))
    policy.get_by_label("Allow").fill("api.example.com\n\n *.example.org:443 \n")
    policy.get_by_label("Deny").fill("evil.example.org")
    policy.get_by_label("Connections", exact=True).fill("7")
    assert barriers(page) == []
    policy.get_by_role("button", name="Put in force").click()
    expect(page.get_by_text("The policy is in force")).to_be_visible()
    expect(policy).to_contain_text("evil.example.org")
    wanted = Policy(allow=("api.example.com", "*.example.org:443"), deny=("evil.example.org",), connections=7)
    assert policed.network_policy() == wanted
    policy.get_by_role("button", name="Edit").click()
    policy.get_by_role("button", name="none", exact=True).click()
    policy.get_by_role("button", name="Put in force").click()
    expect(policy).to_contain_text("nothing")
    assert policed.network_policy() == Policy(allow=())


def test_secrets_are_shown_without_their_values_renewed_and_withdrawn(page: Page, policed: MicroVM) -> None:
    page.goto("/vms/policed/network")
    secret = page.get_by_role("table", name="Secrets").get_by_role("row").filter(has_text="API_KEY")
    expect(secret).to_contain_text("api.example.com")
    expect(secret).to_contain_text("given")
    assert "sesame" not in page.content()
    menu(page, "API_KEY", "Give it another value")
    assert barriers(page) == []
    page.get_by_role("textbox", name="Value").fill("another-value")
    page.get_by_role("button", name="Give it").click()
    expect(page.get_by_text("API_KEY has this value")).to_be_visible()
    menu(page, "API_KEY", "Withdraw its value")
    page.get_by_role("button", name="Withdraw", exact=True).click()
    expect(secret).to_contain_text("none")
    assert policed.secrets() == {"API_KEY": False}
    menu(page, "API_KEY", "Give it a value")
    page.get_by_role("textbox", name="Value").fill("once-again")
    page.get_by_role("button", name="Give it").click()
    expect(secret).to_contain_text("given")


def test_what_it_tries_is_seen_as_it_happens(page: Page, policed: MicroVM) -> None:
    page.goto("/vms/policed/network")
    expect(page.get_by_text("connections open of")).to_be_visible()
    policed.run(["python3", "-c", _CONNECT])
    row = page.get_by_role("table", name="Network log").get_by_role("row").filter(has_text="192.0.2.77:81").first
    expect(row).to_contain_text("refused")
    page.get_by_label("Verdict").select_option("allowed")
    expect(page.get_by_text("192.0.2.77:81")).to_have_count(0)
    page.get_by_label("Verdict").select_option("refused")
    page.get_by_label("Search the network log").fill("192.0.2.77")
    expect(row).to_be_visible()
    assert barriers(page) == []


def test_the_names_that_it_asks_for_are_text(page: Page, policed: MicroVM) -> None:
    policed.run(["python3", "-c", _ASK])
    page.goto("/vms/policed/network")
    expect(page.get_by_role("table", name="Network log").get_by_role("row").filter(has_text="onerror").first).to_be_visible()
    assert "owned" not in page.title()
    assert page.locator("main img").count() == 0
    assert "\x1b" not in page.get_by_role("table", name="Network log").inner_text()


def test_a_vm_without_a_policy_can_be_given_one(page: Page, machine: MicroVM) -> None:
    if machine.info()["network_config"] is None:
        pytest.skip("this host gives no network")
    page.goto("/vms/shared/network")
    expect(page.get_by_text("It may go wherever the Internet is")).to_be_visible()
    expect(page.get_by_role("button", name="Give it a policy")).to_be_visible()
