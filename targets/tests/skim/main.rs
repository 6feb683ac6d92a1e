//! Runs the built `skim` the way people and scripts do: arguments in, status, standard output and standard error out.

mod bundles;
mod damage;
mod depth;
mod effort;
mod golden;
mod harness;
mod interrupt;
mod measure;
mod package;
mod plan;
mod remote;
mod run;
