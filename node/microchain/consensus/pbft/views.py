"""View changes: how replicas leave a primary that makes no progress, and agree on what the next one begins with."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from microchain.consensus.interface import Broadcast, CancelTimer, JobResult, Misbehaviour, Send, Sign
from microchain.consensus.messages import NewView, ViewChange
from microchain.consensus.objects import VERSION, seal
from microchain.consensus.pbft.certificates import Choice, check_new_view, check_view_change, choose, weak_quorum
from microchain.consensus.pbft.core import MILLISECOND, ReplicaCore
from microchain.consensus.pbft.statements import (
    NewViewBody,
    Prepared,
    Statement,
    ViewChangeBody,
    decode_new_view,
    decode_view_change,
    encode,
)
from microchain.consensus.types import NodeId, ProtocolError

__all__ = ["Views"]

MAX_DOUBLINGS = 6


class Views:
    """Keeps each member's newest view change. ``on_begin`` is called when a view has begun here.

    What a peer sends is checked one at a time for each peer: a flood costs its sender's own turn.
    """

    def __init__(self, core: ReplicaCore, on_begin: Callable[[], None]) -> None:
        self._core = core
        self._on_begin = on_begin
        self._changes: dict[NodeId, Statement[ViewChangeBody]] = {}
        self._checking: set[tuple[NodeId, type]] = set()
        self._deadline: int | None = None
        self._making: int | None = None
        self._unstored: int | None = None
        """The view that this node, its primary, has begun but must not show yet."""

    # --- the timer ---

    @property
    def timeout(self) -> int:
        """How long a view may make no progress, in ns: doubled with each view change since the last final block."""
        parameters = self._core.parameters
        doubled = parameters.view_timeout_ms << min(self._core.view_changes, MAX_DOUBLINGS)
        return (doubled + parameters.block_interval_ms) * MILLISECOND

    def watch(self, *, waiting: bool) -> None:
        """Let the timer run while this replica waits for a block of its view, or for a view that a quorum wants."""
        core = self._core
        if not core.journal.active:
            # Those that want a later view have given up waiting for this one, and count: else nobody would follow them.
            reached = [id for id, change in self._changes.items() if change.body.view >= core.view]
            waiting = core.committee.is_supermajority(core.mask(reached))
        if not waiting or core.silent:
            self.restart()
        elif self._deadline is None:
            self._deadline = core.now + self.timeout
            core.set_timer("view", self._deadline)

    def restart(self) -> None:
        """There was progress, or nothing is waited for: the time counts anew."""
        if self._deadline is not None:
            self._deadline = None
            self._core.emit(CancelTimer("view"))

    def timer_fired(self) -> None:
        """The primary made no progress in time."""
        if self._deadline is not None and self._core.now >= self._deadline:
            self._deadline = None
            self.change(self._core.view + 1)

    # --- asking for a view ---

    def change(self, view: int) -> None:
        """Leave the current view: promise nothing in it any more, and ask for ``view``."""
        core = self._core
        if core.is_silent_in(view):
            return
        core.journal = msgspec.structs.replace(core.journal, view=view, active=False, view_change=b"", new_view=b"")
        core.choice = None
        core.view_changes += 1
        self.restart()
        self._ask(view)

    def _ask(self, view: int) -> None:
        core = self._core
        promise = core.current_promise
        prepared = Prepared(*promise.prepared) if promise is not None and promise.prepared is not None else None
        signed, id = encode(
            ViewChangeBody(
                VERSION,
                core.chain_id,
                view,
                core.tip.height,
                core.tip.id,
                core.certificate if core.tip.height else (),
                prepared,
                core.identity,
            )
        )

        def done(results: tuple[JobResult, ...]) -> None:
            (signature,) = results
            assert isinstance(signature, bytes)
            if core.view != view or core.journal.active:
                return
            core.know(id, signature)
            core.journal = msgspec.structs.replace(core.journal, view_change=seal(signed, signature))
            core.persist((core.view_record(),), durable=True, then=stored)

        def stored() -> None:
            if core.view == view and not core.journal.active:
                core.emit(Broadcast(ViewChange(core.journal.view_change)))
                self._take(decode_view_change(core.journal.view_change))

        core.work((Sign(id),), done)

    def receive_change(self, peer: NodeId, raw: bytes) -> None:
        """Take a member's view change."""
        core = self._core
        try:
            statement = decode_view_change(raw)
            known = self._changes.get(statement.replica)
            if statement.body.view < core.view or (known is not None and known.body.view >= statement.body.view):
                return
            signed = check_view_change(core.committee, core.chain_id, statement)
        except ProtocolError as error:
            core.emit(Misbehaviour(peer, f"view change: {error}"))
            return

        def take() -> None:
            if self._take(statement) and not core.is_full_mesh():
                core.emit(Broadcast(ViewChange(raw)))

        self._check(peer, ViewChange, lambda then: core.verify(signed, then), take)

    def _check(
        self, peer: NodeId, kind: type, verify: Callable[[Callable[[bool], None]], None], then: Callable[[], None]
    ) -> None:
        if (peer, kind) in self._checking:
            return
        self._checking.add((peer, kind))

        def verified(valid: bool) -> None:
            self._checking.discard((peer, kind))
            if valid:
                then()
            else:
                self._core.emit(Misbehaviour(peer, f"sent a {kind.__name__} with a wrong signature"))

        verify(verified)

    def _take(self, statement: Statement[ViewChangeBody]) -> bool:
        """Keep a valid view change; follow f + 1 members, and as the new primary a quorum."""
        core = self._core
        known = self._changes.get(statement.replica)
        if known is not None and known.body.view >= statement.body.view:
            return False
        self._changes[statement.replica] = statement
        ahead = sorted((c.body.view for c in self._changes.values() if c.body.view > core.view), reverse=True)
        weak = weak_quorum(core.committee)
        if len(ahead) >= weak:
            # At least one honest replica wants this view or a later one.
            self.change(ahead[weak - 1])
        self._begin_as_primary()
        return True

    def _wanting(self, view: int) -> list[NodeId]:
        return [id for id, change in self._changes.items() if change.body.view == view]

    # --- beginning a view ---

    def _begin_as_primary(self) -> None:
        """Begin the view that this node is the primary of once a quorum wants it."""
        core = self._core
        view = core.view
        if core.journal.active or core.primary != core.identity or core.silent or self._making == view:
            return
        wanting = self._wanting(view)
        if core.identity not in wanting or not core.committee.is_supermajority(core.mask(wanting)):
            return
        self._making = view
        changes = [self._changes[id] for id in sorted(wanting)]
        body = NewViewBody(VERSION, core.chain_id, view, tuple(change.raw for change in changes), core.identity)
        choice = choose([change.body for change in changes])
        signed, id = encode(body)

        def done(results: tuple[JobResult, ...]) -> None:
            (signature,) = results
            assert isinstance(signature, bytes)
            self._making = None
            if core.view != view or core.journal.active:
                return
            core.know(id, signature)
            raw = seal(signed, signature)
            self._begin(view, raw, choice, durable=True)

        core.work((Sign(id),), done)

    def receive_new_view(self, peer: NodeId, raw: bytes) -> None:
        """Take a primary's new view."""
        core = self._core
        try:
            statement = decode_new_view(raw)
            view = statement.body.view
            if not self._is_news(view):
                return
            signed, choice = check_new_view(core.committee, core.chain_id, statement)
        except ProtocolError as error:
            core.emit(Misbehaviour(peer, f"new view: {error}"))
            return

        def begin() -> None:
            if self._is_news(view):
                self._begin(view, raw, choice, durable=False)
                if not core.is_full_mesh():
                    core.emit(Broadcast(NewView(raw)))

        self._check(peer, NewView, lambda then: core.verify(signed, then), begin)

    def _is_news(self, view: int) -> bool:
        core = self._core
        return view > core.view or (view == core.view and not core.journal.active)

    def _begin(self, view: int, raw: bytes, choice: Choice, *, durable: bool) -> None:
        """Enter a view. Its own primary tells others once that can't be forgotten, or it might begin it otherwise."""
        core = self._core
        core.journal = msgspec.structs.replace(core.journal, view=view, active=True, view_change=b"", new_view=raw)
        core.choice = choice
        self._changes = {id: c for id, c in self._changes.items() if c.body.view > view}
        core.wake_proposer = True
        self.restart()
        if durable:
            self._unstored = view

        def stored() -> None:
            self._unstored = None
            if durable and core.view == view:
                core.emit(Broadcast(NewView(raw)))

        core.persist((core.view_record(),), durable=durable, then=stored)
        self._on_begin()

    # --- again ---

    def restore(self) -> None:
        """Take up where this replica was before a restart."""
        core = self._core
        if core.journal.new_view:
            changes = [decode_view_change(raw) for raw in decode_new_view(core.journal.new_view).body.view_changes]
            core.choice = choose([change.body for change in changes])
        elif core.journal.view_change:
            statement = decode_view_change(core.journal.view_change)
            self._changes[core.identity] = statement
        elif not core.journal.active:
            self._ask(core.view)

    def inform(self, peer: NodeId, view: int, *, active: bool) -> None:
        """Show a peer that is behind how the current view began, or that this replica wants it."""
        core = self._core
        if self._unstored == core.view:
            return
        if core.journal.active and core.journal.new_view and (view < core.view or (view == core.view and not active)):
            core.emit(Send(peer, NewView(core.journal.new_view)))
        elif not core.journal.active and core.identity in self._wanting(core.view) and view <= core.view:
            core.emit(Send(peer, ViewChange(core.journal.view_change)))
