"""Live attacks: attacks on one image whose steps can be watched while they run."""
