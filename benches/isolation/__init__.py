"""The performance isolation study: what a misbehaving container costs its neighbours and itself."""
