"""What a node reads before it starts; every error is one sentence that says what to do."""

from __future__ import annotations

from msgspec import Struct

from microchain.config import NodeConfig
from microchain.consensus.genesis import Genesis, node_id
from microchain.consensus.types import NodeId
from microchain.crypto.authority import AuthorityError, spki_hash
from microchain.crypto.suite import RealKeyring
from microchain.genesis_file import load_genesis
from microchain.keys import load_keyring, load_signing_key
from microchain.network.tls import TlsContexts, load_tls_contexts

__all__ = ["NodeSetup", "NodeSetupError", "load_setup"]


class NodeSetupError(ValueError):
    """Files that are each valid, but do not make a node together."""


class NodeSetup(Struct, frozen=True):
    """Identity, keys and chain of a node."""

    genesis: Genesis
    identity: NodeId
    keyring: RealKeyring
    tls: TlsContexts
    token: str


def load_setup(config: NodeConfig) -> NodeSetup:
    """Read genesis, keys, certificates and token.

    NodeSetupError, or the error of the file that is wrong: GenesisError, KeyFileError, TlsFilesError, OSError.
    """
    genesis = load_genesis(config.node.genesis)
    keys, scheme = config.node.keys, genesis.parameters.signature
    keyring = load_keyring(keys, scheme)
    public_key = load_signing_key(keys, scheme).public_key
    entry = next((e for e in genesis.registry if e.signing_key == public_key and e.role == "validator"), None)
    if entry is None:
        raise NodeSetupError(
            f"{config.node.genesis} lists no validator with the key in {keys}: build the genesis document "
            f"from {config.node.name}'s bundle as it is now"
        )
    if entry.name != config.node.name:
        raise NodeSetupError(f"the key in {keys} is {entry.name}'s by {config.node.genesis}, not {config.node.name}'s")
    tls = load_tls_contexts(keys)
    try:
        tls_key = spki_hash((keys / "tls.crt").read_bytes())
    except AuthorityError as error:
        raise NodeSetupError(f"{keys / 'tls.crt'}: {error}; deploy again") from None
    if tls_key != entry.tls_key:
        raise NodeSetupError(
            f"{keys / 'tls.crt'} is not for the TLS key that {config.node.genesis} lists for {entry.name}: deploy again"
        )
    token = config.api.token_file.read_text().strip()
    if not token:
        raise NodeSetupError(f"{config.api.token_file} is empty: it must hold the token of the API")
    return NodeSetup(genesis, node_id(public_key), keyring, tls, token)
