//! A deterministic network simulator that runs the tidings core in simulated time.
