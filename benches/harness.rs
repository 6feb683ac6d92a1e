//! Measurements of skimstone and, later, their record. Nothing is measured here yet: `skim bench` measures a whole model.
//!
//! A bench in this crate verifies its kernel against the scalar reference before it times it, reads buffers larger than the last
//! cache, and reports median and spread. Rows of a real device go to `record/`, and a claim of speed anywhere cites its row.
