"""What travels between ingest and its clients besides the shared records: requests, pages, and how things stand."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nexrl.records import Attempt, Group, Outcome, Reward, Status, TrainingGroup
from nexrl_ingest.groups.external import External, Name, TagValue
from nexrl_ingest.groups.rules import Rule

State = Literal["open", "ready", "leased", "done", "dropped"]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Key = Annotated[str, Meta(max_length=1000)]
MIB = 1024 * 1024


class LeaseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for ready groups of a run."""

    run: Annotated[str, Meta(min_length=1, max_length=1000)]
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1
    wait_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """How long to wait for the first ready group."""
    lease_s: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 600.0
    """After this long without an ack the groups are ready again."""
    steal: bool = False
    """First end all leases of the run: a restarted trainer takes over what its predecessor held."""
    request: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """A name for this request: sent again while its leases last, it returns the same grants."""
    max_mib: Annotated[float, Meta(gt=0, le=1024)] = 64.0
    """The answer stops before it is larger than this, uncompressed; one group always fits."""
    rule: Rule | None = None
    """For this request, instead of the run's."""
    weight_version: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    """The trainer's current weights; the rule's `max_staleness` counts from here."""
    external: External | None = None


class LeaseIds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Leases to ack or to give back; all of them, or none where one cannot be."""

    leases: Annotated[list[str], Meta(max_length=10_000)]


class RewardRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named number for a session, or for one call of it."""

    name: Name
    value: float | bool
    """true is 1.0 and false 0.0, as of a reward function."""
    call: Key | None = None
    """A call of the session, by its id or by that of the reply it is."""
    by: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """Who judged; None for the key's own name: `trainer`, `agent` for an attempt key, `grant` for a reward grant."""
    id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """Sent again with the same id, it is kept once."""
    explanation: Annotated[str, Meta(max_length=100_000)] = ""
    at_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """When it was given, for a trainer that replays a record; 0 is now, and all that other keys can say."""


class Tag(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A word about a session, under a name; of one name the latest counts."""

    name: Name
    value: TagValue


class Leased(Struct, frozen=True, kw_only=True):
    """A ready group, and the lease to ack once it has been learned from."""

    lease: str
    group: TrainingGroup


class LeaseReply(Struct, frozen=True, kw_only=True):
    """What a lease request was granted."""

    leased: list[Leased]
    more: bool
    """Other groups are ready that did not fit: lease again."""


class RolloutState(Struct, frozen=True, kw_only=True):
    """The final outcome of one rollout."""

    rollout: int
    attempt: str
    status: Literal["completed", "failed"]
    reason: str
    rewards: dict[str, float]
    """Rewards of the rollout as a whole; where names collide, the trainer's wins over the agent's own."""


class GroupState(Struct, frozen=True, kw_only=True):
    """Where a group stands."""

    id: str
    task: str
    mode: Literal["train", "eval"]
    size: int
    final: int
    """Number of rollouts that have their final outcome."""
    state: State
    dropped: str | None = None
    """Why the rule dropped it; None where it did not."""
    outcomes: list[RolloutState]


class GroupPage(Struct, frozen=True, kw_only=True):
    groups: list[GroupState]
    next: int | None
    """Give it as `after` for the next page; None at the end."""


class GroupsQuery(Struct, frozen=True, kw_only=True):
    after: Annotated[int, Meta(ge=0, le=2**62)] = 0
    state: State | None = None
    id: Annotated[list[Key], Meta(max_length=1000)] = []
    """Only these groups."""
    limit: Limit = 100


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """An attempt and how it went."""

    attempt: Attempt
    outcome: Outcome | None
    """As it was given, its rewards included."""
    rewards: list[Reward]
    """All that the session has, those of the outcome too."""


class GroupRecord(Struct, frozen=True, kw_only=True):
    """A group as it was planned, and all its attempts."""

    group: Group
    attempts: list[AttemptRecord]


class Measures(Struct, frozen=True, kw_only=True):
    """How well calls merged into sequences, over one session or many."""

    sessions: int
    calls: int
    sequences: int
    tokens: int
    """Of all sequences."""
    trained: int
    """Tokens that are trained, of these."""
    drifted: int
    """Calls that opened a new chain although the session held one to extend."""
    merge_ratio: float | None
    """Calls per sequence: 1 where no call extends another. None without a sequence."""
    drift_rate: float | None
    """Drifted calls per call."""
    trained_share: float | None
    """Trained tokens per token."""


class RunState(Struct, frozen=True, kw_only=True):
    """Totals of a run."""

    run: str
    groups: dict[State, int]
    """Number of groups by state."""
    rollouts: dict[str, int]
    """Planned ones, and those that are final by status."""
    dropped: dict[str, int]
    """What the rule dropped, by reason: groups as `group:REASON`, rollouts as `rollout:REASON`."""
    rule: Rule
    measures: Measures
    """Over the final rollouts that were measured so far; `sessions` says how many these are."""


class RunName(Struct, frozen=True, kw_only=True):
    run: str
    groups: int


class RunPage(Struct, frozen=True, kw_only=True):
    runs: list[RunName]
    next: str | None


class RunsQuery(Struct, frozen=True, kw_only=True):
    after: Key = ""
    limit: Limit = 100


class SessionSummary(Struct, frozen=True, kw_only=True):
    """One line of the list of sessions."""

    session: str
    run: str | None
    """None for a session nobody planned."""
    group: str | None
    status: Status
    reason: str
    """Why it failed, or what cut it off; empty where neither is so."""
    calls: int
    rewards: dict[str, float]
    tags: dict[str, str]


class SessionPage(Struct, frozen=True, kw_only=True):
    sessions: list[SessionSummary]
    next: int | None
    """Give it as `before` for the next page; None at the end."""


class SessionsQuery(Struct, frozen=True, kw_only=True):
    before: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    session: Key | None = None
    """Only this one."""
    run: Key | None = None
    status: Status | None = None
    since: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    """Only sessions heard of since: Unix time in nanoseconds."""
    limit: Limit = 50


class CallsQuery(Struct, frozen=True, kw_only=True):
    all: bool = False


class Named(Struct, frozen=True, kw_only=True):
    id: str


class EventsQuery(Struct, frozen=True, kw_only=True):
    after: Annotated[str, Meta(max_length=100)] = ""
    session: Key | None = None
    """Only events of this session."""
    run: Key | None = None
    """Only outcomes and leases of this run."""


class Health(Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"
