"""The blocking faces of what administrators of a server do."""

from __future__ import annotations

from collections.abc import Iterator

from bandsox.client.administration import AsyncAuthentication, AsyncWebhooks
from bandsox.models import AuditEntry
from bandsox.portal import iterate, sync


class Authentication:
    """The blocking face of `AsyncAuthentication`: the same methods, parameters and results; see there."""

    def __init__(self, authentication: AsyncAuthentication) -> None:
        self._async = authentication

    check = sync(AsyncAuthentication.check)
    create_key = sync(AsyncAuthentication.create_key)
    list_keys = sync(AsyncAuthentication.list_keys)
    edit_key = sync(AsyncAuthentication.edit_key)
    revoke_key = sync(AsyncAuthentication.revoke_key)
    change_password = sync(AsyncAuthentication.change_password)
    list_sessions = sync(AsyncAuthentication.list_sessions)
    end_session = sync(AsyncAuthentication.end_session)
    end_sessions = sync(AsyncAuthentication.end_sessions)

    def audit(
        self,
        *,
        caller: str | None = None,
        client: str | None = None,
        method: str | None = None,
        path: str | None = None,
        status: int | None = None,
        refused: bool | None = None,
    ) -> Iterator[AuditEntry]:
        """Who did what, the newest first, as far back as the log goes: each request that changed something, and each that was refused.

        Parameters
        ----------
        caller, client, method, status: only entries with these values; of WebSockets the method is ``WEBSOCKET``.
        path: only paths that begin so.
        refused: only what failed or was refused; False: only what was done.
        """
        return iterate(self._async.audit(caller=caller, client=client, method=method, path=path, status=status, refused=refused))


class Webhooks:
    """The blocking face of `AsyncWebhooks`: the same methods, parameters and results; see there."""

    def __init__(self, webhooks: AsyncWebhooks) -> None:
        self._async = webhooks

    create = sync(AsyncWebhooks.create)
    list = sync(AsyncWebhooks.list)
    get = sync(AsyncWebhooks.get)
    edit = sync(AsyncWebhooks.edit)
    delete = sync(AsyncWebhooks.delete)
    deliveries = sync(AsyncWebhooks.deliveries)
    test = sync(AsyncWebhooks.test)
