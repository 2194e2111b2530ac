"""Every family on data whose features are known: which of them each one finds."""
