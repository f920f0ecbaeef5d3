"""The blocking faces of what administrators of a server do."""

from __future__ import annotations

from bandsox.client.administration import AsyncAuthentication, AsyncWebhooks
from bandsox.portal import sync, sync_iterator


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
    audit = sync_iterator(AsyncAuthentication.audit)


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
