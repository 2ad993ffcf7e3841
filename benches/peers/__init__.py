"""The bench that runs hull and its peers in turn."""
