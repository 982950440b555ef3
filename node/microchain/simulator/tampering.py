"""A member that deals and reveals falsely."""

from __future__ import annotations

import msgspec

from microchain.consensus.messages import Message, Transactions
from microchain.consensus.objects import TRANSACTION_TAG, MalformedObject, decode_transaction, encode_body, seal
from microchain.consensus.state.payloads import DealPayload, RevealPayload, decode_payload, encode_payload
from microchain.consensus.types import NodeId, TransactionKind
from microchain.crypto.group import multiply
from microchain.crypto.hashing import tagged_hash
from microchain.simulator.byzantine import ByzantineMember

__all__ = ["Tamperer"]


class Tamperer(ByzantineMember):
    """Puts another point in the place of a share in its deals and reveals, wherever it hands them out alone."""

    def to_send(self, peer: NodeId, message: Message) -> list[Message]:
        if isinstance(message, Transactions):
            return [Transactions(tuple(map(self._tamper, message.transactions)))]
        return [message]

    def _tamper(self, raw: bytes) -> bytes:
        try:
            body = decode_transaction(raw).body
        except MalformedObject:  # made by another behaviour of this member
            return raw
        if body.sender != self.id or body.kind not in (TransactionKind.DEAL, TransactionKind.REVEAL):
            return raw
        payload: DealPayload | RevealPayload
        if body.kind == TransactionKind.DEAL:
            payload = decode_payload(body.payload, DealPayload)
            encrypted = (multiply(2, payload.deal.encrypted[0]), *payload.deal.encrypted[1:])
            payload = msgspec.structs.replace(payload, deal=msgspec.structs.replace(payload.deal, encrypted=encrypted))
        else:
            payload = decode_payload(body.payload, RevealPayload)
            reveal = msgspec.structs.replace(payload.reveal, share=multiply(2, payload.reveal.share))
            payload = msgspec.structs.replace(payload, reveal=reveal)
        signed = encode_body(msgspec.structs.replace(body, payload=encode_payload(payload)))
        return seal(signed, self._keyring.sign(tagged_hash(TRANSACTION_TAG, signed)))
