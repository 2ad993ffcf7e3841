"""The parts that the benches share: a private view of the machine, bundles, timing and intervals."""
