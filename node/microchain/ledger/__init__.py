"""What a validator keeps on disk: blocks, votes, finality and evidence (protocol, section 9)."""
