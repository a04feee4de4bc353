"""Live attacks on models, and audits."""
