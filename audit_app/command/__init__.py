"""The command `hardrank audit`: its options, the request that they make, and what it prints."""
