//! Timing harness: verify, warm up, then median and spread.
