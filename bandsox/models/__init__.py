"""What is passed between the rooms: specifications, records and results.

Frozen, typed and free of behaviour beyond what can be derived from their own fields. Values are
validated where they enter (CLI, REST, library call); from then on they are trusted.
"""

from __future__ import annotations

from bandsox.models.access import (
    ApiKey,
    AuditEntry,
    CallerInfo,
    KeyChanges,
    LoginSession,
    NewApiKey,
    Quotas,
    QuotaUse,
)
from bandsox.models.changes import (
    Change,
)
from bandsox.models.images import (
    HistoryEntry,
    Image,
    ImageConfig,
)
from bandsox.models.machines import (
    UNLIMITED,
    Confinement,
    ConfinementDemand,
    Deadlines,
    HookResult,
    Isolation,
    OnExpiry,
    RateLimits,
    RestoreReceipt,
    RestoreStep,
    Transport,
    VMRecord,
    VMSpec,
    VMStatus,
)
from bandsox.models.networks import (
    Connection,
    NetworkConfig,
    NetworkEvent,
    NetworkStats,
    Policy,
    PortState,
    PublishedPort,
)
from bandsox.models.progress import (
    Progress,
    ProgressCallback,
    report,
)
from bandsox.models.results import (
    MOST_DIFFERENCES,
    Balloon,
    DirEntry,
    ExecResult,
    FileChange,
    FileDifference,
    FileStat,
    GuestInfo,
    LineWindow,
    Metrics,
    ProcessInfo,
    SessionInfo,
    TreeResult,
)
from bandsox.models.secret import (
    Secret,
    SecretUse,
)
from bandsox.models.snapshots import (
    TEMPLATE_PREFIX,
    Belonging,
    Checkpoint,
    HostCPU,
    Purpose,
    Shape,
    Snapshot,
    StoredFile,
    Template,
)
from bandsox.models.webhooks import (
    Delivery,
    NewWebhook,
    Webhook,
    WebhookInfo,
)

__all__ = [
    "MOST_DIFFERENCES",
    "TEMPLATE_PREFIX",
    "UNLIMITED",
    "ApiKey",
    "AuditEntry",
    "Balloon",
    "Belonging",
    "CallerInfo",
    "Change",
    "Checkpoint",
    "Confinement",
    "ConfinementDemand",
    "Connection",
    "Deadlines",
    "Delivery",
    "DirEntry",
    "ExecResult",
    "FileChange",
    "FileDifference",
    "FileStat",
    "GuestInfo",
    "HistoryEntry",
    "HookResult",
    "HostCPU",
    "Image",
    "ImageConfig",
    "Isolation",
    "KeyChanges",
    "LineWindow",
    "LoginSession",
    "Metrics",
    "NetworkConfig",
    "NetworkEvent",
    "NetworkStats",
    "NewApiKey",
    "NewWebhook",
    "OnExpiry",
    "Policy",
    "PortState",
    "ProcessInfo",
    "Progress",
    "ProgressCallback",
    "PublishedPort",
    "Purpose",
    "QuotaUse",
    "Quotas",
    "RateLimits",
    "RestoreReceipt",
    "RestoreStep",
    "Secret",
    "SecretUse",
    "SessionInfo",
    "Shape",
    "Snapshot",
    "StoredFile",
    "Template",
    "Transport",
    "TreeResult",
    "VMRecord",
    "VMSpec",
    "VMStatus",
    "Webhook",
    "WebhookInfo",
    "report",
]
