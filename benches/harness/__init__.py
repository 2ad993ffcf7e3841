"""The parts that the benches share: a private view of the host, bundles, timing and intervals."""
