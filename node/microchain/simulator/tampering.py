"""A member that deals and reveals falsely."""

from __future__ import annotations

import msgspec

from microchain.consensus.messages import Message, Transactions
from microchain.consensus.objects import (
    TRANSACTION_TAG,
    MalformedObject,
    TransactionBody,
    decode_transaction,
    encode_body,
    seal,
)
from microchain.consensus.state.model import InvalidTransaction
from microchain.consensus.state.payloads import DealPayload, RevealPayload, decode_payload, encode_payload
from microchain.consensus.types import NodeId, TransactionKind
from microchain.crypto.group import GroupError, multiply
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
            if body.sender != self.id or body.kind not in (TransactionKind.DEAL, TransactionKind.REVEAL):
                return raw
            payload = self._falsify(body)
        except (MalformedObject, InvalidTransaction, GroupError):  # made by another behaviour of this member
            return raw
        signed = encode_body(msgspec.structs.replace(body, payload=payload))
        return seal(signed, self._keyring.sign(tagged_hash(TRANSACTION_TAG, signed)))

    @staticmethod
    def _falsify(body: TransactionBody) -> bytes:
        if body.kind == TransactionKind.DEAL:
            dealt = decode_payload(body.payload, DealPayload)
            encrypted = (multiply(2, dealt.deal.encrypted[0]), *dealt.deal.encrypted[1:])
            deal = msgspec.structs.replace(dealt.deal, encrypted=encrypted)
            return encode_payload(msgspec.structs.replace(dealt, deal=deal))
        revealed = decode_payload(body.payload, RevealPayload)
        reveal = msgspec.structs.replace(revealed.reveal, share=multiply(2, revealed.reveal.share))
        return encode_payload(msgspec.structs.replace(revealed, reveal=reveal))
