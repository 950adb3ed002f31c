"""How raw structures become shards: converted in parallel, sifted, shuffled, written, described."""
